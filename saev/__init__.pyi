# The public names of the library; `import saev` loads none of them before its first use.

# --- the verbs, in the order in which a study runs them
from .shards.tensors import store_activations
from .vits.recording import record
from .recipes.train import TrainedBank, train
from .recipes.trainer import LightningParts
from .recipes.fit import FittedBaselines, fit
from .codes.encoding import encode
from .evaluation.evaluating import Evaluation, evaluate
from .evaluation.stability import Stability, stability
from .probing.pipeline import ProbeResult, probe
from .recipes.traits import traits
from .recipes.contrast import contrast
from .taxon_map.pipeline import map_latents
from .dictionary_bench.pipeline import Bench, bench
from .visuals.showing import show
from .interop.converting import convert

# --- their settings
from .codes.settings import EncodeSettings
from .dictionary_bench.preparing import BenchImages
from .dictionary_bench.settings import BenchSettings
from .contrasts.settings import ContrastSettings, Groups
from .evaluation.settings import EvaluateSettings
from .probing.settings import ProbeSettings, SparseSettings
from .taxon_map.settings import MapSettings
from .trait_evaluation.settings import TraitsSettings
from .training.settings import FitSettings, ProbeSample, TrainSettings
from .visuals.settings import Choice, ShowSettings

# --- one SAE of a bank
from .nn.settings import Archetypal, AuxK, Free, Member
from .nn.sparsifiers import BatchTopK, Gated, JumpReLU, ReLU, TopK
from .nn.objectives import Matryoshka, Plain, RandomMatryoshka
from .nn.normalise import Normaliser
from .nn.autoencoder import SparseAutoencoder
from .nn.bank import SAEBank

# --- baselines, image sets, backbones and names of latents: saev.baselines.KMeans, saev.images.FolderImages, saev.annotations.read, ...
from . import annotations, baselines, demo, images, vits

# --- what is on disk
from .annotations import annotate
from .checkpoint import load, read_config, save_dictionary
from .codes.store import CodeStore
from .dictionary import Dictionary, Scorer
from .saved import SavedDictionary, find_dictionaries
from .shards.reader import ActivationStore
from .shards.stream import TokenStream

# fmt: off
__all__ = [
    "ActivationStore", "Archetypal", "AuxK", "BatchTopK", "Bench",
    "BenchImages", "BenchSettings", "Choice", "CodeStore", "ContrastSettings", "Dictionary",
    "EncodeSettings", "EvaluateSettings", "Evaluation", "FitSettings", "FittedBaselines", "Free", "Gated", "Groups", "JumpReLU",
    "LightningParts", "MapSettings", "Matryoshka", "Member", "Normaliser", "Plain", "ProbeResult", "ProbeSample", "ProbeSettings",
    "RandomMatryoshka", "ReLU", "SAEBank", "SavedDictionary", "Scorer", "ShowSettings", "SparseAutoencoder", "SparseSettings",
    "Stability", "TokenStream", "TopK", "TrainSettings", "TrainedBank", "TraitsSettings", "annotate", "annotations", "baselines", "bench",
    "contrast", "convert", "demo", "encode", "evaluate", "find_dictionaries", "fit", "images", "load", "map_latents", "probe",
    "read_config", "record", "save_dictionary", "show", "stability", "store_activations", "train", "traits", "vits",
]
