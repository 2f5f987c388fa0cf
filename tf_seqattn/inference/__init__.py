"""Deployment side: packing block-sparse models, and exporting them."""

from tf_seqattn.inference.layer_plan import LayerPlan
from tf_seqattn.inference.packed_model import pack
from tf_seqattn.inference.saved_model import export_saved_model
from tf_seqattn.inference.stablehlo import export_stablehlo
from tf_seqattn.inference.tflite import TFLiteReport, export_tflite

__all__ = [
    "LayerPlan",
    "TFLiteReport",
    "export_saved_model",
    "export_stablehlo",
    "export_tflite",
    "pack",
]
