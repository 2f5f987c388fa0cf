"""The columns of a click log in the Kaggle format, and what may stand in them."""

NUMERIC_NAMES = tuple(f"I{number}" for number in range(1, 14))
CATEGORICAL_NAMES = tuple(f"C{number}" for number in range(1, 27))
FIELD_NAMES = (*NUMERIC_NAMES, *CATEGORICAL_NAMES)
COLUMNS = ("label", *FIELD_NAMES)

# Regular expressions of a field that is not empty. A count is a 64-bit integer.
CATEGORY_DIGITS = 8
CATEGORY = f"[0-9a-fA-F]{{1,{CATEGORY_DIGITS}}}"
COUNT = "-?[0-9]+"
