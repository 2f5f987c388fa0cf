"""What an L2 penalty on a mask and on what it masks says about their product.

Masked variables are `u = mask(w) * beta`, and the penalty is `cost(w) + |beta|^2`. Its
minimum over all `(w, beta)` with the same `u` is a function of `|u|` alone: the
regularizer of the masked problem. Functions of norms, element by element.
"""

import numpy as np
import scipy.special


def of_plain_mask(norms: np.ndarray) -> np.ndarray:
    """The group LASSO: mask `w`, cost `w^2` (section 2).

    Args:
      norms: floats, 0 or more.

    Returns:
      `2 |u|`, like `norms`.

    Example:

    >>> of_plain_mask(np.array([0.0, 3.0])).tolist()
    [0.0, 6.0]
    """
    return 2.0 * norms


def of_exponential_mask(norms: np.ndarray) -> np.ndarray:
    """A log-sum penalty: mask `exp(w)`, cost `w^2` (lemma 2.1).

    The mask is an unnormalized softmax. With `W` the Lambert function of `2 |u|^2`, the
    best `w` is `W / 2`. Near 0 the penalty is `|u|^2`, so it is not subadditive there,
    as theorem 1.1 wants.

    Args:
      norms: floats, 0 or more.

    Returns:
      `W^2 / 4 + W / 2`, like `norms`.

    Example:

    >>> of_exponential_mask(np.array([0.0, 0.01, 100.0])).round(4).tolist()
    [0.0, 0.0001, 19.3031]
    """
    lambert = scipy.special.lambertw(2.0 * np.square(norms)).real
    return lambert**2 / 4.0 + lambert / 2.0


def of_sparse_mask(norms: np.ndarray) -> np.ndarray:
    """A power below 1: mask `w`, cost `|w|` (lemma 2.2).

    Args:
      norms: floats, 0 or more.

    Returns:
      `1.5 * 2^(1/3) * |u|^(2/3)`, like `norms`.

    Example:

    >>> of_sparse_mask(np.array([0.0, 1.0])).round(4).tolist()
    [0.0, 1.8899]
    """
    return 1.5 * 2.0 ** (1.0 / 3.0) * norms ** (2.0 / 3.0)


def of_powerpropagation(norms: np.ndarray) -> np.ndarray:
    """The group LASSO again: `u = beta |beta|`, which has no mask (lemma 2.3).

    Args:
      norms: floats, 0 or more.

    Returns:
      `|u|`, like `norms`.
    """
    return 1.0 * norms
