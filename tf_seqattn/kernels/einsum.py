"""Reading the equation of an `EinsumDense`: which axes of its kernel are inputs."""

# Labels for the axes that an ellipsis stands for. Keras allows only a few.
_ELLIPSIS_LABELS = "ABCDEFGHIJ"


def split_equation(
    equation: str, rank: int = len(_ELLIPSIS_LABELS)
) -> tuple[str, str, str]:
    """Splits the equation of an `EinsumDense`, with letters for an ellipsis.

    Args:
      equation: such as "...x,xy->...y".
      rank: rank of the inputs, which says how many axes an ellipsis stands for. The
        default leaves room for any.

    Returns:
      Labels of the inputs, of the kernel and of the outputs.

    Example:

    >>> split_equation("...x,xy->...y", rank=3)
    ('ABx', 'xy', 'ABy')
    """
    equation = equation.replace(" ", "")
    if "..." in equation:
        named = len(equation.split(",")[0].replace("...", ""))
        letters = _ELLIPSIS_LABELS[: max(rank - named, 0)]
        equation = equation.replace("...", letters)
    inputs, rest = equation.split(",")
    kernel, outputs = rest.split("->")
    return inputs, kernel, outputs


def kernel_axes(equation: str) -> dict[str, tuple[int, ...]]:
    """Row and column axes of the kernel of an `EinsumDense`, for a `BlockGrid`.

    Example:

    >>> kernel_axes("abc,cde->abde")
    {'row_axes': (0,), 'column_axes': (1, 2)}
    """
    inputs, kernel, outputs = split_equation(equation)
    # A label shared by all three indexes separate matrices: stack them as rows.
    rows = tuple(
        axis
        for axis, label in enumerate(kernel)
        if label not in outputs or label in inputs
    )
    columns = tuple(axis for axis in range(len(kernel)) if axis not in rows)
    return {"row_axes": rows, "column_axes": columns}


def is_one_product(equation: str) -> bool:
    """Whether the equation is one matrix product, inputs by outputs of the kernel.

    It is not if a label of the kernel is summed alone or shared by all three terms.

    Example:

    >>> is_one_product("ab,bc->ac"), is_one_product("ab,abc->ac")
    (True, False)
    """
    inputs, kernel, outputs = split_equation(equation)
    return all((label in inputs) != (label in outputs) for label in kernel)
