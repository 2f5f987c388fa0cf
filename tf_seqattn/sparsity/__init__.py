"""Training side: blocks, importance, schedules, policies, the wrapper, callbacks."""

from tf_seqattn.kernels.blocks import BlockGrid
from tf_seqattn.kernels.channel_groups import (
    ChannelGroup,
    ChannelGroups,
    channel_groups,
)
from tf_seqattn.sparsity.after_pruning import AfterPruning
from tf_seqattn.sparsity.allocation import (
    erdos_renyi_allocation,
    global_allocation,
    uniform_allocation,
)
from tf_seqattn.sparsity.backup import BackupAndRestore
from tf_seqattn.sparsity.callbacks import UpdatePruningStep
from tf_seqattn.sparsity.feature_selection import (
    drop_features,
    select_features,
    selected_features,
)
from tf_seqattn.sparsity.importance import (
    Importance,
    Magnitude,
    NormalizationScale,
    PowerPropagation,
    SoftmaxAttention,
    Taylor,
)
from tf_seqattn.sparsity.layer_sensitivity import Sensitivity, sensitivity
from tf_seqattn.sparsity.layer_summary import summary
from tf_seqattn.sparsity.n_of_m import NofM
from tf_seqattn.sparsity.phases import Phase, PruningSchedule
from tf_seqattn.sparsity.policies import MinimumBlocks, PruningPolicy
from tf_seqattn.sparsity.pruning import prune, prune_scope
from tf_seqattn.sparsity.pruning_warning import PruningWarning
from tf_seqattn.sparsity.reconstruction import reconstruct
from tf_seqattn.sparsity.revise_rows import ReviseRows
from tf_seqattn.sparsity.schedules import (
    ACDCSchedule,
    GradualSchedule,
    OneShotSchedule,
    SequentialAttentionSchedule,
)
from tf_seqattn.sparsity.shrinking import shrink
from tf_seqattn.sparsity.stripping import strip_pruning
from tf_seqattn.sparsity.table_rows import count_rows, fix_rows, prune_rows
from tf_seqattn.sparsity.tensorboard import PruningSummaries
from tf_seqattn.sparsity.wrapper import PrunableLayer, pruned_layers

__all__ = [
    "ACDCSchedule",
    "AfterPruning",
    "BackupAndRestore",
    "BlockGrid",
    "ChannelGroup",
    "ChannelGroups",
    "GradualSchedule",
    "Importance",
    "Magnitude",
    "MinimumBlocks",
    "NofM",
    "NormalizationScale",
    "OneShotSchedule",
    "Phase",
    "PowerPropagation",
    "PrunableLayer",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "PruningWarning",
    "ReviseRows",
    "Sensitivity",
    "SequentialAttentionSchedule",
    "SoftmaxAttention",
    "Taylor",
    "UpdatePruningStep",
    "channel_groups",
    "count_rows",
    "drop_features",
    "erdos_renyi_allocation",
    "fix_rows",
    "global_allocation",
    "prune",
    "prune_rows",
    "prune_scope",
    "pruned_layers",
    "reconstruct",
    "select_features",
    "selected_features",
    "sensitivity",
    "shrink",
    "strip_pruning",
    "summary",
    "uniform_allocation",
]
