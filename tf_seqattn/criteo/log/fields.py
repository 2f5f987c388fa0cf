"""The columns of a click log in the Kaggle format, in their order."""

NUMERIC_NAMES = tuple(f"I{number}" for number in range(1, 14))
CATEGORICAL_NAMES = tuple(f"C{number}" for number in range(1, 27))
FIELD_NAMES = (*NUMERIC_NAMES, *CATEGORICAL_NAMES)
COLUMNS = ("label", *FIELD_NAMES)
