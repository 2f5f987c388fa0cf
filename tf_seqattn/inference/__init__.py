"""Deployment side: packing block-sparse models, and exporting them."""

from tf_seqattn.inference.export_saved_model import export_saved_model
from tf_seqattn.inference.export_stablehlo import export_stablehlo
from tf_seqattn.inference.export_tflite import TFLiteReport, export_tflite
from tf_seqattn.inference.pack import pack
from tf_seqattn.inference.plan import LayerPlan

__all__ = [
    "LayerPlan",
    "TFLiteReport",
    "export_saved_model",
    "export_stablehlo",
    "export_tflite",
    "pack",
]
