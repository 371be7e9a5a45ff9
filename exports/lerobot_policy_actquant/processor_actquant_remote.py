"""The processors: those of a policy that runs here."""

from .processor_actquant import make_actquant_pre_post_processors

make_actquant_remote_pre_post_processors = make_actquant_pre_post_processors
