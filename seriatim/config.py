"""Every configuration key of Seriatim, and the loader that reads configs safely.

`get_cfg()` gives Detectron2's defaults plus ours; `load_config()` merges a file and overrides into
them. YAML is data here: a config can compute literal arithmetic (Detectron2's own RetinaNet base
does) and nothing else, whatever tag it carries.
"""

from __future__ import annotations

import ast
import difflib
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from dataset_tools.errors import InputError


def add_seriatim_config(cfg: CfgNode) -> None:
    """Add every key of Seriatim to `cfg`. Keys that name a unit are in that unit."""
    _add_data_keys(cfg)
    _add_augmentation_keys(cfg)
    _add_classification_data_keys(cfg)
    _add_model_keys(cfg)
    _add_training_keys(cfg)
    _add_hook_keys(cfg)
    _add_evaluation_keys(cfg)
    # Detectron2's defaults name a GPU; "auto" takes what the machine has.
    cfg.MODEL.DEVICE = "auto"


def _add_data_keys(cfg: CfgNode) -> None:
    cfg.SERIATIM = s = CfgNode()
    # The datasets that this config knows, each a mapping of NAME (what DATASETS.TRAIN and TEST call
    # it), JSON (a COCO JSON, as `python -m dataset_tools convert` writes it) and IMAGES (the folder
    # that its file names start from); for panoptic and semantic data PANOPTIC_JSON, PANOPTIC_ROOT,
    # SEM_SEG_ROOT, STUFF_CLASSES; with ROTATED: True the rotated boxes that converted data have
    # beside upright ones; for classification LABELS, FORMAT and SPLIT, or CLASSIFICATION: True; see
    # seriatim/data/catalog.py. Relative paths start from the working directory; ~ and $VARIABLES
    # are expanded.
    s.DATASETS = []
    # Relative weight of each dataset in DATASETS.TRAIN; () samples every image equally often.
    s.DATASET_WEIGHTS = ()
    # True: no augmentation and no shuffling; images are resized as in testing. To debug with.
    s.DETERMINISTIC_DEBUG = False
    # > 0: sizes of images, levels, batch, steps and learning rate are chosen from the data and from
    # the time of a step, for a training of so many minutes, where the config file itself and the
    # command line leave them open; seriatim/engine/auto.py. Also `train_net.py --auto MINUTES`.
    s.AUTO_MINUTES = 0.0
    # Decoded training images are kept in files of DATA.CACHE_DIR up to this many MiB (0: decode
    # anew). All processes share them, later runs too; the memory that is free holds them.
    s.CACHE_MIB = 0
    # Batches of landscape or of other images only waste less padding, but their order is no longer
    # that of the shuffle. Detectron2's default is True; images cropped to AUG.SIZE gain nothing.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False


def _add_augmentation_keys(cfg: CfgNode) -> None:
    # Where ENABLED it replaces INPUT.MIN_SIZE_TRAIN, RANDOM_FLIP and CROP.
    cfg.SERIATIM.AUG = a = CfgNode()
    a.ENABLED = False
    # (height, width) px of the training crop; images are scaled by SCALE, cropped and padded to it.
    a.SIZE = (512, 512)
    # Range of the random scale, relative to the image fitted into SIZE; (0.1, 2.0) is large-scale
    # jitter.
    a.SCALE = (0.8, 1.25)
    # True: SCALE is relative to the image's own pixels rather than to the image fitted into SIZE.
    a.SCALE_FROM_ORIGINAL = False
    # Probabilities of each flip and of a turn by a multiple of 90 degrees.
    a.HFLIP = 0.5
    a.VFLIP = 0.0
    a.ROT90 = 0.0
    # Largest relative change of brightness, contrast and saturation; 0 turns each off.
    a.BRIGHTNESS = 0.0
    a.CONTRAST = 0.0
    a.SATURATION = 0.0
    # Probability that a training image is put together from four, each scaled by SCALE and cropped
    # to its quarter (YOLOv4, arXiv 2004.10934).
    a.MOSAIC = 0.0
    # Probability that about half the objects of another image are pasted in, which needs masks
    # (Ghiasi 2021, arXiv 2012.07177). What they hide is cut out of the masks behind.
    a.COPY_PASTE = 0.0
    # An object is dropped when less than this share of its box is left after cropping, or of its
    # mask after pasting.
    a.MIN_AREA_SHARE = 0.25


def _add_classification_data_keys(cfg: CfgNode) -> None:
    # Images that have a label as a whole.
    cfg.SERIATIM.DATA = d = CfgNode()
    # Where pixels wait: "memory" (decoded), "mmap" (decoded, in a file of CACHE_DIR that is mapped
    # into memory), "disk" (read, and files decoded, each time), or "auto": memory up to MEMORY_MIB,
    # above that mmap for what is packed (CIFAR, IDX, …) and disk for image files.
    d.STORAGE = "auto"
    # MiB of decoded pixels of a dataset.
    d.MEMORY_MIB = 1024
    # What mmap unpacks and what is fitted to pixels stays here; it may be deleted at any time.
    d.CACHE_DIR = "~/.cache/seriatim"
    # "": by MODEL.PIXEL_MEAN and PIXEL_STD; "measured": these two are set from DATASETS.TRAIN;
    # "zca": measured, and pixels are decorrelated by a fixed linear map fitted to DATASETS.TRAIN.
    d.NORMALISE = ""
    # Added to the eigenvalues of the covariance, as a share of their mean.
    d.ZCA_EPSILON = 0.1

    cfg.SERIATIM.CLASSIFICATION = c = CfgNode()
    # (height, width) px of the input; (): as the images are, which then all have one size.
    c.SIZE = ()
    # Training crops: "none"; "pad": shifted by up to PAD px each way (He 2015, arXiv 1512.03385),
    # what comes in mirrored or black as PAD_MODE "reflect" or "zero" says; "area": of a random
    # share AREA of the image and a random shape, scaled to SIZE (Szegedy 2014, arXiv 1409.4842).
    c.CROP = "none"
    c.PAD = 4
    c.PAD_MODE = "reflect"
    c.AREA = (0.08, 1.0)
    # In testing the image is scaled so that the middle, cropped to SIZE, is so much of its shorter
    # side.
    c.TEST_SHARE = 1.0
    # Probability of a flip, left to right. Not for digits.
    c.HFLIP = 0.0
    # RandAugment (arXiv 1909.13719): so many operations, 0: none; their magnitude from 0 to 30.
    c.RANDAUGMENT = 0
    c.RANDAUGMENT_MAGNITUDE = 9
    # Side of a grey square at a random place, as a share of the shorter side (arXiv 1708.04552).
    c.CUTOUT = 0.0

    cfg.SERIATIM.SEMI = m = CfgNode()
    # > 0: so many images of each class, drawn by SEED, keep their label in training; the others are
    # unlabelled. 0: all keep it. Each of DATASETS.TRAIN is drawn from by itself.
    m.LABELS_PER_CLASS = 0
    # > 0: so many images of each class are kept from training and make the dataset NAME_validation,
    # for DATASETS.TEST.
    m.VALIDATION_PER_CLASS = 0
    # Unlabelled images in a batch for each labelled one, of which there are SOLVER.IMS_PER_BATCH;
    # 0: only labelled ones are seen.
    m.UNLABELED_RATIO = 1
    m.SEED = 0
    # Further views of each unlabelled image: "weak" is augmented as in SERIATIM.CLASSIFICATION,
    # "strong" by RandAugment and CUTOUT beyond that.
    m.VIEWS = ()
    m.STRONG_RANDAUGMENT = 2
    m.STRONG_MAGNITUDE = 10
    m.STRONG_CUTOUT = 0.5


def _add_model_keys(cfg: CfgNode) -> None:
    # Any convolutional or hierarchical timm model as a backbone: TimmBackbone alone,
    # build_timm_fpn_backbone or build_timm_pan_backbone with a neck by MODEL.FPN. Its levels are
    # named res2 (stride 4), res3 (stride 8) … as Detectron2 names ResNet's.
    cfg.MODEL.TIMM = t = CfgNode()
    t.NAME = "tf_efficientnet_lite0"
    # "": random; "package": ImageNet weights from the package that carries them
    # (tf_efficientnet_lite0 only); else a file of weights in timm's own format.
    t.WEIGHTS = ""
    # "": as timm builds it; "FrozenBN": statistics and affine fixed (use with pretrained weights
    # only); "GN": GroupNorm, for training from scratch with small batches.
    t.NORM = ""
    # Levels of stride <= 2**FREEZE_AT are not trained and their BatchNorms are fixed; 0: all
    # trained.
    t.FREEZE_AT = 0
    # Stochastic depth rate (arXiv 1603.09382).
    t.DROP_PATH = 0.0

    # Levels above the neck's last one: "" none; "maxpool" one (p6, as Faster R-CNN has it);
    # "p6p7" two by stride-2 convolutions (as RetinaNet has them).
    cfg.MODEL.FPN.TOP_BLOCK = ""

    # TaskAlignedDetector, see seriatim/modeling/meta_arch/task_aligned.py for the papers.
    cfg.MODEL.TASK_ALIGNED = d = CfgNode()
    d.NUM_CLASSES = 0
    d.IN_FEATURES = ("p3", "p4", "p5")
    d.NUM_CONVS = 2
    d.CHANNELS = 64
    # Score that the classification prior starts from (focal loss, arXiv 1708.02002).
    d.PRIOR_PROB = 0.01
    # Which points answer for an object: "task_aligned", "atss" (arXiv 1912.02424) or "simota"
    # (arXiv 2107.08430).
    d.ASSIGNER = "task_aligned"
    # Of "task_aligned": candidates per ground truth, and the exponents of score and IoU in the
    # alignment metric.
    d.TOPK = 13
    d.ALPHA = 1.0
    d.BETA = 6.0
    d.CLS_WEIGHT = 1.0
    # Exponent of the quality focal loss; 0 is binary cross entropy with soft targets.
    d.CLS_FOCUS = 2.0
    # "giou", "diou" or "ciou".
    d.BOX_LOSS = "giou"
    d.BOX_WEIGHT = 2.0
    d.SCORE_THRESH_TEST = 0.02
    d.TOPK_CANDIDATES_TEST = 3000
    d.NMS_THRESH_TEST = 0.6
    # With MODEL.MASK_ON: channels of the features that masks are found in.
    d.MASK_CHANNELS = 8
    # 1×1 convolutions whose weights are predicted for each object: 3 as in CondInst; 1 is a
    # weighted sum of the features, as in YOLACT.
    d.MASK_CONVS = 3
    # Side of a mask in its box.
    d.MASK_RESOLUTION = 28
    # Points of an image at which a step teaches masks, at most: this bounds the memory.
    d.MASK_POINTS = 128
    d.MASK_WEIGHT = 2.0

    # FCOSDetector, see seriatim/modeling/meta_arch/fcos.py; defaults are Detectron2's own.
    cfg.MODEL.FCOS = f = CfgNode()
    f.NUM_CLASSES = 0
    f.IN_FEATURES = ("p3", "p4", "p5", "p6", "p7")
    # 3×3 convolutions in each tower, as wide as the levels, and their norm ("GN", "" …).
    f.NUM_CONVS = 4
    f.NORM = "GN"
    f.PRIOR_PROB = 0.01
    # Points within so many strides of a box's centre answer for it.
    f.CENTER_SAMPLING_RADIUS = 1.5
    f.FOCAL_LOSS_ALPHA = 0.25
    f.FOCAL_LOSS_GAMMA = 2.0
    # Threshold of sqrt(class score × centerness), which is larger than that of a class score alone.
    f.SCORE_THRESH_TEST = 0.2
    f.TOPK_CANDIDATES_TEST = 1000
    f.NMS_THRESH_TEST = 0.6

    _add_classifier_keys(cfg)

    # 0: filled from the data at start. A number that contradicts the data is an error.
    cfg.MODEL.RETINANET.NUM_CLASSES = 0
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 0
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 0


def _add_classifier_keys(cfg: CfgNode) -> None:
    # ImageClassifier, see docs/classifier.md.
    cfg.MODEL.CLASSIFIER = c = CfgNode()
    c.NUM_CLASSES = 0
    # Feature of the backbone that is averaged and classified; "": its last.
    c.IN_FEATURE = ""
    # Dropout rate before the last layer.
    c.DROPOUT = 0.0
    # "cross_entropy"; "focal" (arXiv 1708.02002); against unbalanced classes "class_balanced"
    # (arXiv 1901.05555) or "logit_adjusted" (arXiv 2007.07314).
    c.LOSS = "cross_entropy"
    # Share of the target that is spread over all classes (arXiv 1512.00567).
    c.LABEL_SMOOTHING = 0.0
    # Exponent gamma of "focal"; beta of "class_balanced": 0 weighs classes alike, close to 1 by the
    # inverse of their number; tau of "logit_adjusted".
    c.FOCAL_GAMMA = 2.0
    c.CLASS_BALANCE = 0.9999
    c.LOGIT_ADJUSTMENT = 1.0
    # Training samples of each class, for the losses against imbalance; (): counted in the data.
    c.CLASS_COUNTS = ()
    # Initialisation of the backbone: "" as it is built, "kaiming", "orthogonal", or "zero_gamma"
    # (kaiming, and every residual branch starts at 0).
    c.INIT = ""
    # So many most probable classes are given for each image.
    c.TOP_K = 5

    # build_wide_resnet_backbone: WRN-DEPTH-WIDTH for small images (arXiv 1605.07146); DEPTH is
    # 6 n + 4.
    cfg.MODEL.WIDE_RESNET = w = CfgNode()
    w.DEPTH = 28
    w.WIDTH = 2
    # Dropout rate between the convolutions of a unit.
    w.DROPOUT = 0.0
    # Stochastic depth rate of the last unit, rising linearly from 0 (arXiv 1603.09382).
    w.DROP_PATH = 0.0

    # build_preact_resnet_backbone: PreActResNet-18 or -34 for small images (arXiv 1603.05027).
    cfg.MODEL.PREACT_RESNET = p = CfgNode()
    p.DEPTH = 18
    # Channels of the first stage.
    p.WIDTH = 64
    p.DROPOUT = 0.0
    p.DROP_PATH = 0.0

    # build_densenet_backbone: DenseNet-BC for small images (arXiv 1608.06993).
    cfg.MODEL.DENSENET = d = CfgNode()
    # Layers of each dense block.
    d.BLOCKS = (6, 12, 24, 16)
    # Channels that a layer adds.
    d.GROWTH = 32
    # Channels of the first convolution; 0: twice GROWTH.
    d.STEM_CHANNELS = 0
    # Share of the channels that a transition keeps.
    d.COMPRESSION = 0.5
    # Dropout rate after each layer.
    d.DROPOUT = 0.0

    # The file of a ZCA whitening, which SERIATIM.DATA.NORMALISE "zca" fits and fills in.
    cfg.MODEL.WHITENING = ""


def _add_training_keys(cfg: CfgNode) -> None:
    # Mixing of training samples and their targets by classifiers: "" off, "mixup" (arXiv
    # 1710.09412), "manifold" (arXiv 1806.05236), "cutmix" (arXiv 1905.04899).
    cfg.SERIATIM.MIX = m = CfgNode()
    m.NAME = ""
    # λ ~ Beta(ALPHA, ALPHA).
    m.ALPHA = 1.0
    # Layers of which "manifold" draws one for each batch: 0 the images, i the input of stage i.
    m.LAYERS = (0, 1, 2)
    # True: one λ for each sample instead of one for the batch.
    m.PER_SAMPLE = False

    # Weights of a model's losses, of detectors too: "" as the model weighs them, "fixed",
    # "uncertainty" (arXiv 1705.07115, learned), "gradnorm" (arXiv 1711.02257).
    cfg.SERIATIM.LOSS_BALANCE = b = CfgNode()
    b.NAME = ""
    # [[name of a loss, weight], …]: the weights, or where they start. Other losses keep theirs.
    b.WEIGHTS = []
    # For gradnorm: the parameter whose gradients are compared ("": the backbone's last), the
    # exponent alpha of the training rates, and the step of the weights.
    b.SHARED = ""
    b.ALPHA = 1.5
    b.RATE = 0.025

    cfg.SERIATIM.SOLVER = s = CfgNode()
    # "AdamW" (decoupled weight decay, arXiv 1711.05101) or "SGD" (Nesterov by SOLVER.NESTEROV).
    s.OPTIMIZER = "SGD"
    # > 0: SOLVER.MAX_ITER, STEPS and WARMUP_ITERS are set from so many passes over the data.
    s.EPOCHS = 0.0
    # Images per step that SOLVER.BASE_LR is meant for; the rate is scaled linearly from there to
    # IMS_PER_BATCH × ACCUMULATE. 0: BASE_LR is used as it stands.
    s.REFERENCE_BATCH = 0
    # Batches of IMS_PER_BATCH images over which gradients are averaged before one step of the
    # optimizer.
    s.ACCUMULATE = 1
    # Learning-rate factor of the backbone.
    s.BACKBONE_MULTIPLIER = 1.0
    # Decay of the exponential moving average of the weights, which is evaluated and saved; 0: none.
    s.EMA_DECAY = 0.0
    # Steps after which the average has reached full decay (it starts faster).
    s.EMA_WARMUP = 100
    # "auto": bfloat16 where the hardware does it natively, float32 elsewhere; or "float32",
    # "bfloat16", "float16" (with loss scaling, CUDA only).
    s.PRECISION = "auto"
    # Channels-last memory format: "auto", "on", "off".
    s.CHANNELS_LAST = "auto"
    # True: only deterministic algorithms; an operation on CUDA that has none stops the run.
    s.DETERMINISTIC = False


def _add_hook_keys(cfg: CfgNode) -> None:
    cfg.SERIATIM.HOOKS = h = CfgNode()
    # Steps between two lines of metrics (TensorBoard, metrics.json, log).
    h.LOG_PERIOD = 20
    # Steps between two histograms of weights and gradients in TensorBoard; 0: none.
    h.HISTOGRAM_PERIOD = 0
    # Watch for NaN (with a dump that reproduces the step), spikes and a plateau of the loss, dead
    # units, wrong update ratios, a slow loader, overfitting and wrong labels; docs/hooks.md.
    h.WATCH = True
    # Steps over which dead units, update ratios and the loader are judged; a plateau takes six.
    h.WATCH_PERIOD = 200
    # Steps between two measurements of the loss on DATASETS.TEST; 0: none. At most so many images.
    h.VALIDATION_LOSS_PERIOD = 0
    h.VALIDATION_LOSS_IMAGES = 200
    # Steps between two pictures of predictions beside the ground truth; 0: none. On so many images.
    # Of a classifier also of a batch as it gets it.
    h.PICTURE_PERIOD = 0
    h.PICTURE_IMAGES = 4
    # The metric that decides which checkpoint is best and when training stops early. Left as it is,
    # that of classifiers is classification/top1 on the first of DATASETS.TEST.
    h.BEST_METRIC = "bbox/AP"
    h.BEST_MODE = "max"
    # Evaluations without improvement after which training stops; 0: never.
    h.EARLY_STOPPING_PATIENCE = 0
    # Smallest change that counts as an improvement, in the metric's unit.
    h.EARLY_STOPPING_MIN_DELTA = 0.0


def _add_evaluation_keys(cfg: CfgNode) -> None:
    cfg.SERIATIM.EVAL = e = CfgNode()
    # Images per batch and process; 0: one for detectors, SOLVER.IMS_PER_BATCH for classifiers.
    e.BATCH_SIZE = 0
    # Bins of confidence for the expected calibration error (arXiv 1706.04599).
    e.ECE_BINS = 15
    # Detections per image that count; dense scenes need more than COCO's 100 (also
    # TEST.DETECTIONS_PER_IMAGE).
    e.MAX_DETECTIONS = 100
    # > 0: inference by overlapping tiles of so many px of the image as it is on disk; each is then
    # resized as INPUT.MIN_SIZE_TEST says, and what the tiles see is merged.
    e.TILE = 0
    e.TILE_OVERLAP = 0.25
    # Boxes of two tiles with a larger IoU, in what the tiles share, are the same object.
    e.TILE_NMS_THRESH = 0.6


_extensions: list[Callable[[CfgNode], None]] = []


def extend_config(add_keys: Callable[[CfgNode], None]) -> None:
    """Make the keys of a project known: `add_keys(cfg)` is called for every config from now on."""
    if add_keys not in _extensions:
        _extensions.append(add_keys)


def get_cfg() -> CfgNode:
    """Detectron2's defaults plus every key of Seriatim, and of the projects that are imported."""
    cfg = get_detectron2_cfg()
    add_seriatim_config(cfg)
    for add_keys in _extensions:
        add_keys(cfg)
    return cfg


def load_config(config_file: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read `config_file` (a path, or a name in Detectron2's model zoo), then KEY VALUE overrides.

    Raises:
        InputError: the file is missing or not safe YAML, a key is unknown, a value of wrong type.
    """
    cfg = get_cfg()
    path = find_config(config_file)
    _merge(cfg, load_yaml_with_base(path), str(path))
    if len(overrides) % 2:
        raise InputError(
            f"Overrides come in pairs KEY VALUE, but {len(overrides)} words were given after the"
            f" options: {' '.join(overrides)}. Check for a forgotten value or for a space inside a"
            " value."
        )
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        value = _parse_value(text)
        # What looks like a number can be meant as text (OUTPUT_DIR 2024): the key's type decides.
        _merge(cfg, _nest(key, value if isinstance(value, str) else text), "the command line")
    return cfg


def explicit_keys(config_file: str | Path, overrides: Sequence[str] = ()) -> set[str]:
    """The keys that a config file itself, not one of its bases, or the command line gives."""
    values = yaml.load(find_config(config_file).read_text(encoding="utf-8"), Loader=_ConfigLoader)
    return {*_leaves({k: v for k, v in (values or {}).items() if k != "_BASE_"}), *overrides[::2]}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        deeper = isinstance(value, Mapping)
        keys += _leaves(value, f"{prefix}{key}.") if deeper else [f"{prefix}{key}"]
    return keys


def find_config(config_file: str | Path) -> Path:
    """The path of a config file: as given, or in Detectron2's model zoo.

    Raises:
        InputError: there is no such file in either place.
    """
    path = Path(config_file).expanduser()
    if path.is_file():
        return path
    try:
        return Path(model_zoo.get_config_file(str(config_file)))
    except RuntimeError:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f" In that folder there are: {', '.join(near)}." if near else ""
        raise InputError(
            f"There is no config file {path} and no config of that name in Detectron2's model"
            f" zoo.{hint}"
        ) from None


def load_yaml_with_base(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in the YAML file `path`, merged over what its `_BASE_` names.

    `_BASE_` is a file (relative to `path`, or a config of Detectron2's model zoo) or a list of
    files, of which a later one wins, so that a config can join a model with a dataset.
    """
    path = path.resolve()
    if path in seen:
        raise InputError(
            f"{seen[-1]}: _BASE_ goes round in a circle: {' → '.join(map(str, seen))}."
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_ConfigLoader) or {}
    except FileNotFoundError:
        raise InputError(
            f"{seen[-1] if seen else path}: its _BASE_ {path} does not exist."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a config that can be read safely: {error}") from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: a config is a mapping of keys to values, this is {type(values).__name__}."
        )
    bases = values.pop("_BASE_", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(
            f"{path}: _BASE_ is the path of a config or a list of such, not {bases!r}."
        )
    merged: dict[str, Any] = {}
    for base in bases:
        _overlay(merged, load_yaml_with_base(_find_base(base, path), (*seen, path)))
    return _overlay(merged, values)


def _find_base(base: str, path: Path) -> Path:
    """The file that `_BASE_: base` in `path` names."""
    near = path.parent / os.path.expanduser(base)
    if near.is_file():
        return near
    try:
        return Path(model_zoo.get_config_file(base))
    except RuntimeError:
        return near  # the message of its absence names the place beside the config


def _overlay(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _overlay(base[key], value)
        else:
            base[key] = value
    return base


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def _parse_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _merge(cfg: CfgNode, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Merge nested `values` into `cfg`; an InputError names the key and `where` it stands."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in cfg:
            near = difflib.get_close_matches(name, _all_keys(cfg, prefix), n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"Unknown config key {name} in {where}.{hint}")
        if isinstance(cfg[key], CfgNode):
            if not isinstance(value, Mapping):
                raise InputError(
                    f"{where}: {name} is a group of keys ({', '.join(cfg[key])}), not a value:"
                    f" {value!r}."
                )
            _merge(cfg[key], value, where, f"{name}.")
        else:
            cfg[key] = _coerce(value, cfg[key], name, where)


def _all_keys(cfg: CfgNode, prefix: str) -> list[str]:
    keys = []
    for key, value in cfg.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{key}.")
    return keys


def _coerce(value: Any, old: Any, name: str, where: str) -> Any:
    """`value` in the type of the default `old`, by the conversions that yacs allows."""
    if isinstance(value, str) and not isinstance(old, str):
        value = _parse_value(value)  # YAML reads 1e-3 and (1, 2) as strings
    if isinstance(value, list) and isinstance(old, tuple):
        nested = bool(old) and all(isinstance(item, tuple) for item in old)
        value = tuple(tuple(x) if nested and isinstance(x, list) else x for x in value)
    elif isinstance(value, tuple) and isinstance(old, list):
        value = list(value)
    elif isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if old is None or value is None or type(value) is type(old):
        return value
    hint = (
        f" Write ({value!r},)." if isinstance(old, tuple | list) and isinstance(value, str) else ""
    )
    raise InputError(
        f"{where}: {name} takes {_article(old)} like {old!r}, but it is {value!r}"
        f" ({type(value).__name__}).{hint}"
    )


def _article(value: Any) -> str:
    name = {"bool": "bool (True or False)", "str": "string"}.get(
        type(value).__name__, type(value).__name__
    )
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


class _ConfigLoader(yaml.SafeLoader):
    """A SafeLoader that also computes the literal arithmetic which Detectron2's configs hold."""


def _construct_arithmetic(loader: _ConfigLoader, node: yaml.Node) -> Any:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise yaml.constructor.ConstructorError(
            None, None, "eval takes one string of literal arithmetic", node.start_mark
        )
    try:
        return evaluate_arithmetic(arguments[0])
    except (ValueError, SyntaxError, RecursionError, MemoryError, ArithmeticError) as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


_ConfigLoader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _construct_arithmetic)
_ConfigLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
)


def evaluate_arithmetic(text: str) -> Any:
    """The value of numbers, lists, tuples, + - * / // **, and comprehensions over literal lists.

    Nothing else is evaluated: no call, no attribute, no name but a comprehension's own variable.
    Exponents are held to 64 and steps to 10,000, so that no config can eat the machine.

    Raises:
        ValueError: the text holds anything else.
    """
    if len(text) > 1000:
        raise ValueError("arithmetic in a config is at most 1000 characters long")
    return _Arithmetic().value(ast.parse(text.strip(), mode="eval").body, {})


class _Arithmetic:
    """Evaluates syntax trees, in a limited number of steps: nested loops could run for years."""

    def __init__(self) -> None:
        self._steps_left = 10_000

    def value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise ValueError("arithmetic in a config takes too many steps")
        match node:
            case ast.Constant(value=int() | float() as value):
                return value
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.List(elts=elements):
                return [self.value(e, names) for e in elements]
            case ast.Tuple(elts=elements):
                return tuple(self.value(e, names) for e in elements)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -_number(self.value(operand, names))
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
                a, b = (_number(self.value(e, names)) for e in (left, right))
                return _OPERATORS[type(op)](a, b)
            case ast.ListComp(elt=element, generators=[ast.comprehension() as loop]):
                return self.loop(element, loop, names)
        raise ValueError(
            f"only literal arithmetic is evaluated in a config, not: {ast.unparse(node)}"
        )

    def loop(self, element: ast.expr, loop: ast.comprehension, names: Mapping[str, Any]) -> list:
        values = self.value(loop.iter, names)
        if (
            not isinstance(loop.target, ast.Name)
            or loop.ifs
            or not isinstance(values, list | tuple)
        ):
            raise ValueError("a loop in a config is one variable over a literal list, no condition")
        return [self.value(element, {**names, loop.target.id: v}) for v in values]


def _power(base: int | float, exponent: int | float) -> Any:
    if abs(exponent) > 64 or abs(base) > 1e6:
        raise ValueError("a power in a config is too large")
    return _number(base**exponent)  # a root of a negative number is complex


_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: _power,
}


def _number(value: Any) -> int | float:
    if isinstance(value, int | float):
        return value
    raise ValueError(f"arithmetic in a config is on numbers, not on {type(value).__name__}")
