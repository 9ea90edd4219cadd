"""Other cameras' colour matrices: XYZ turned as if another one's had been used.

How far cameras differ is measured on the table of LibRaw 0.22 (524 different matrices of 1,275
cameras). A matrix takes XYZ to camera RGB; each row is divided by its response to D65 white, so
that white is white for all. For two cameras, the XYZ that one's matrix makes of the other's camera
RGB is a matrix M that keeps white, and its logarithm L says how far they are apart: rows of L times
white are 0, swapping the cameras changes its sign, and any multiple of it belongs to a matrix with
an inverse. With X, Y and Z in units of white, rows of L sum to 0, so the six numbers off its
diagonal are all of it. Over all pairs, but for the tenth that differ most (sensors with other
filters, digital backs of the nineties) and those without a logarithm, their covariance is that of
`_FACTOR`.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from genisp_model.data.order import Purpose, uniform

FloatArray = npt.NDArray[np.float64]

#: X, Y, Z of D65 with Y = 1, as LibRaw and the store have it.
WHITE = np.array([0.95047, 1.0, 1.08883])
#: Where the six numbers of a logarithm stand.
OFF_DIAGONAL = ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
#: Lower triangle; times its transpose it is the covariance of the six.
_FACTOR = np.array(
    [
        [0.2865, 0, 0, 0, 0, 0],
        [0.0321, 0.0654, 0, 0, 0, 0],
        [-0.2163, -0.0195, 0.1705, 0, 0, 0],
        [0.0214, 0.0540, 0.0001, 0.0557, 0, 0],
        [-0.0457, -0.0242, 0.0160, -0.0315, 0.1230, 0],
        [0.0356, -0.0066, 0.0714, 0.0540, -0.1037, 0.0818],
    ]
)
COVARIANCE = _FACTOR @ _FACTOR.T
_NORMAL = NormalDist()


def drawn_turns(
    positions: npt.ArrayLike, strength: float, *, seed: int, epoch: int
) -> FloatArray | None:
    """A matrix for each sample, a pure function of (seed, epoch, position).

    Parameters
    ----------
    positions
        (n,) integers, positions in the dataset.
    strength
        1: as cameras differ; 0: not at all; the logarithm is multiplied by it.
    seed, epoch
        Any integers.

    Returns
    -------
    (n, 3, 3): XYZ to XYZ, D65 white to itself; None for a strength of 0.
    """
    if strength == 0:
        return None
    count = len(OFF_DIAGONAL)
    items = np.asarray(positions).reshape(-1, 1) * count + np.arange(count)
    evenly = uniform(items.ravel(), seed=seed, epoch=epoch, purpose=Purpose.MATRIX)
    normal = np.array([_NORMAL.inv_cdf(number) for number in evenly.tolist()])
    factor = np.broadcast_to(_FACTOR, (len(items), count, count))
    correlated = _products(factor, strength * normal.reshape(-1, count, 1))
    return turns(correlated[:, :, 0])


def turns(numbers: FloatArray) -> FloatArray:
    """The matrices of logarithms, given by their numbers at `OFF_DIAGONAL`: (n, 6) -> (n, 3, 3)."""
    logarithms = np.zeros((len(numbers), 3, 3))
    rows, columns = np.transpose(OFF_DIAGONAL)
    logarithms[:, rows, columns] = numbers
    diagonal = np.arange(3)
    logarithms[:, diagonal, diagonal] = -logarithms.sum(axis=2)
    turned: FloatArray = _exponentials(logarithms) * WHITE[:, None] / WHITE
    return turned


def _exponentials(logarithms: FloatArray) -> FloatArray:
    """Matrix exponentials by scaling and squaring: (n, 3, 3) -> (n, 3, 3)."""
    halvings, terms = 8, 10  # a norm of 8 leaves an error below 1e-20
    small = logarithms / 2**halvings
    total = term = np.broadcast_to(np.eye(3), small.shape)
    for order in range(1, terms):
        term = _products(term, small) / order
        total = total + term
    for _ in range(halvings):
        total = _products(total, total)
    return total


def _products(left: FloatArray, right: FloatArray) -> FloatArray:
    """Matrix products (n, i, j), (n, j, k) -> (n, i, k), in an order of operations of their own.

    The last bit of numpy's and torch's products may depend on how many there are.
    """
    total: FloatArray = left[:, :, 0, None] * right[:, None, 0, :]
    for inner in range(1, left.shape[2]):
        total = total + left[:, :, inner, None] * right[:, None, inner, :]
    return total
