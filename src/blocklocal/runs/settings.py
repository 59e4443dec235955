"""The settings of a run in groups: data, model, optimisation and machine. Every field is a flag of the command line."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from blocklocal._common.choices import (
    BalanceName,
    DecayName,
    ImagesIn,
    KeepName,
    LoggerName,
    ModelName,
    OptimizerName,
    OptimizerSetting,
    PrecisionName,
    ScheduleName,
    TargetKind,
    check_choices,
    values,
)
from blocklocal._common.errors import InputError, shown, unknown
from blocklocal._common.ranges import (
    COUNT,
    FROM_ONE,
    IMAGE_SIZE,
    MANY,
    SEED,
    THREADS,
    VOCABULARY,
    WIDTH,
    Range,
    check_settings,
    whole,
)
from blocklocal.block.optim import Optimizer
from blocklocal.block.schedules import WARMUP, WARMUPS, Schedule, warmup_cosine
from blocklocal.runs.class_weights import check_class_weights

USUAL_LR = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}
LOGGERS = values(LoggerName)
RANGES = {
    **dict.fromkeys(
        ("train_size", "test_size", "batch_size", "epochs", "checkpoint_every", "patience", "length"), COUNT
    ),
    "validation": Range(0, MANY),
    "labelled": Range(0, 1, above=True),
    "repeat_labelled": Range(0, 0.99),
    "image_size": IMAGE_SIZE,
    **dict.fromkeys(("seed", "split_seed"), SEED),
    "vocabulary": VOCABULARY,
    "width": WIDTH,
    "blocks": whole(1, 10_000),
    "lora": FROM_ONE,
    "threads": THREADS,
    "warmup": WARMUPS,
    "accumulate": FROM_ONE,
    "ema": Range(0, 1, above=True, below=True),
    "lower_lr": Range(0, 1000, above=True),
}


@dataclass(frozen=True)
class Data:
    """What is learned."""

    data: str = "digits"
    """digits (embedded), a folder of images (and masks) or parquet files, a name on the hub (ylecun/mnist,
    owner/name:config), a table (--target), arrays (.npy, .npz), or a text: .txt, .md, .rst, .jsonl
    or .parquet, one file or a folder."""
    train_size: int | None = None
    """Training samples to use (of a text: windows); default: all that the validation split leaves."""
    validation: float = 0.1
    """Validation samples: a fraction below 1, or a number; 0 for none. Held out of the training samples, or of the own
    validation split of a set that has a test split too."""
    test_size: int | None = None
    """Test samples to use; default: all."""
    image_size: int | None = None
    """Resize and crop every image to this many pixels a side; default: as they are."""
    split_seed: int = 0
    """Seed of the validation split (not of the run)."""
    batch_size: int = 128
    """Samples per training step."""
    augment: str = ""
    """Augmentation of training images, by commas: crop, reflect, flip, cutout, with a size in pixels where wanted
    (crop:4); resized, with the smallest area in percent (resized:25); randaugment, with a strength up to 30."""
    second_view: str = ""
    """How the second view of a training image is augmented, as --augment, where --consistency or --barlow compare two;
    default: as the first."""
    labelled: float = 1.0
    """Learn from the labels of this share of the training samples, of every class the same; the others count as samples
    without a label."""
    repeat_labelled: float = 0.0
    """Repeat the training samples that have a label until they are this share of an epoch: 0.5 where few have one."""
    mix: str = ""
    """Mix two training images, and their targets in the same shares: mixup or cutmix; with the parameter of the shares:
    mixup:0.4. In one process."""
    skip_bad: bool = False
    """Leave out images that cannot be decoded, and files that are no text, (counted) instead of stopping."""
    target: tuple[str, ...] = ()
    """Of a table (a CSV or parquet file, or a folder of train.csv and test.csv): the column to predict, or several
    columns of numbers; of a table of images too. Of arrays in a file: the name of the array of labels, where it is not
    called y."""
    target_is: TargetKind = "auto"
    """classes; values; shares of classes, a column for each (soft targets); or auto: values for numbers other than a
    few different whole ones."""
    categories: tuple[str, ...] = ()
    """Columns of a table whose numbers are categories."""
    weight: str = ""
    """Of a table: the column that says how much every row counts in training."""
    stream: bool = False
    """Read a set from the hub as it comes: the decoded images are kept, and no copy of the download."""
    images_in: ImagesIn = "auto"
    """Where decoded images are: memory; disk, read batch by batch; or auto: in memory where they take at most half of
    what is free. The pictures are the same."""
    text: str = ""
    """Of a text: what holds it, a field of .jsonl or a column of .parquet (default: text)."""
    tokenizer: str = ""
    """Of a text: a tokenizer.json, or bytes. Default: byte-level BPE, trained on the training part."""
    vocabulary: int = 4096
    """Of a text: tokens of the tokenizer that is trained, at most."""
    length: int = 128
    """Of a text: tokens of a window."""
    class_weights: str = ""
    """How much every class counts in every loss: balanced (each the same, by the training images), or one number per
    class, by commas."""

    def __post_init__(self) -> None:
        if self.validation not in RANGES["validation"] or (self.validation >= 1 and self.validation % 1):
            raise InputError(
                "validation must be a fraction from 0 to below 1 or a whole number of samples up to a billion, not "
                f"{shown(self.validation)}."
            )
        check_settings(self, RANGES)
        check_choices(self)
        check_class_weights(self.class_weights)
        if not self.data:
            raise InputError("data must be 'digits', a folder, a file or a hub name, not an empty string.")

    @property
    def validation_split(self) -> int | float:
        """A fraction below 1, a count from 1 on."""
        return self.validation if self.validation < 1 else int(self.validation)


@dataclass(frozen=True)
class Model:
    """Which network, and where it is cut."""

    model: ModelName | str = "auto"
    """A model of the library; hf:FOLDER_OR_NAME, timm:NAME or torchvision:NAME; or a function of your own:
    path/to/file.py:function. auto: resnet18 for images, unet for images with masks, mlp for a table, conv1d for series,
    decoder for a text."""
    width: int | None = None
    """Channels (or units) of the first layer; default: the model's usual width."""
    model_options: dict[str, str] = field(default_factory=dict)
    """Options of the model's own, such as stem large (ResNets), depth 3 (mlp) or dropout 0.1 (vgg8b)."""
    pretrained: bool = False
    """Start from the published weights of hf:, timm: and torchvision: models."""
    lora: int | None = None
    """Of an hf: model with --pretrained: train low-rank adapters of this rank in its linear layers (LoRA, by peft), and
    leave its own weights as they are. An export has them merged."""
    variance: bool = False
    """Of values: predict a variance of each too, so that every block says how sure it is."""
    freeze: tuple[str, ...] = ()
    """Patterns of names of weights that are not trained: '*embeddings*'."""
    blocks: int = 4
    """Number of blocks."""
    at: tuple[str, ...] = ()
    """Names of the pieces where blocks 2, 3, … start, instead of a number of blocks."""
    balance: BalanceName = "count"
    """How cuts are placed: equal count of pieces, or equal time, flops or bytes (measured)."""

    def __post_init__(self) -> None:
        check_settings(self, RANGES)
        check_choices(self)
        if self.lora is not None and not (self.pretrained and self.model.startswith("hf:")):
            raise InputError(
                f"--lora adapts a trained model of transformers: give --model hf:FOLDER_OR_NAME and --pretrained, or "
                f"leave --lora out of the training of {self.model}."
            )


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and schedule; every block has its own."""

    epochs: int = 10
    """Passes over the training split. With --resume RUN: train a finished run on to so many; for the added epochs the
    schedule begins anew."""
    optimizer: OptimizerSetting = "auto"
    """sgd (Nesterov momentum), adam, adamw, or auto: sgd for classes of images, adamw for all else and for models of
    other libraries."""
    lr: float | None = None
    """Peak learning rate. Default: 0.1 for sgd, 0.001 for adam and adamw, 0.003 for adamw on tables, series, masks and
    texts."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 5e-4
    """Weight decay."""
    decay: DecayName = "auto"
    """What weight decay is on: all; matrices: not biases and norms; auto: matrices under adamw in blocks with a
    LayerNorm or an RMSNorm, else all."""
    clip: float | None = None
    """Largest gradient norm per block; default: no clipping."""
    schedule: ScheduleName = "one-cycle"
    """Learning-rate schedule, per training step."""
    warmup: float = WARMUP
    """Of warmup-cosine: share of the steps in which the learning rate rises."""
    accumulate: int = 1
    """Batches whose gradients every block adds up before it updates."""
    ema: float | None = None
    """Keep a running mean of the weights, of which so much stays at an update (0.999); it is what is evaluated, used to
    predict and exported. Default: none."""
    lower_lr: float = 1.0
    """Learning rate of the own weights of all blocks but the last, as a share of --lr; what the library adds to them
    (readouts, twins) keeps --lr. A small one (0.03) suits pretrained models."""
    patience: int | None = None
    """Stop where so many epochs in a row were not better on validation than the best one before. Default: never."""

    def __post_init__(self) -> None:
        check_settings(self, RANGES)
        check_choices(self)
        self.build()

    def settled(self, auto: OptimizerName = "sgd", **usual: float) -> "Optimisation":
        """The same with an optimiser and a learning rate that are decided.

        Args:
            auto: the optimiser where none was given.
            usual: learning rates by optimiser, where they are not `USUAL_LR`.
        """
        name, lr = self._decided(auto, USUAL_LR | usual)
        return dataclasses.replace(self, optimizer=name, lr=lr)

    def build(self) -> Optimizer:
        """What every block gets; what is not decided is as for classes of images (see `usual.suited`)."""
        name, lr = self._decided("sgd", USUAL_LR)
        given = (self.momentum, self.weight_decay, self.clip)
        return Optimizer(name, lr, *given, decay=self.decay, ema=self.ema, lower=self.lower_lr)

    def _decided(self, auto: OptimizerName, usual: Mapping[str, float]) -> tuple[OptimizerName, float]:
        name = auto if self.optimizer == "auto" else self.optimizer
        return name, usual[name] if self.lr is None else self.lr

    def build_schedule(self) -> Schedule:
        return warmup_cosine(self.warmup) if self.schedule == "warmup-cosine" else self.schedule


@dataclass(frozen=True)
class Machine:
    """Where and how it runs."""

    seed: int = 0
    """Seed of weights, order, augmentation and dropout."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int | None = None
    """CPU threads; default: torch's own choice (all cores, or OMP_NUM_THREADS)."""
    precision: PrecisionName = "auto"
    """float32, bfloat16 or float16 (autocast; in float16 every block scales its loss), or auto: bfloat16 on CUDA,
    float32 on CPU."""
    compile: bool = False
    """Compile every block for training (torch.compile); it needs a C++ compiler, and takes its time at the start."""
    channels_last: bool = True
    """Memory layout of convolutions."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; default: one per epoch."""
    keep: KeepName = "newest"
    """What is evaluated at the end, predicts and is exported: newest, the last epoch; or best, the epoch with the best
    validation accuracy, whose weights are kept in the run's folder best."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    loggers: tuple[str, ...] = ()
    """Send the figures of every epoch to wandb (Weights & Biases), to mlflow, or to both."""

    def __post_init__(self) -> None:
        check_settings(self, RANGES)
        check_choices(self)
        for name in self.loggers:
            if name not in LOGGERS:
                raise unknown("logger", name, LOGGERS)
