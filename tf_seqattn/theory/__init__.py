"""The theory of SequentialAttention++ (arXiv 2402.17902, section 2) as plain functions.

Coefficients of a linear model are `(groups, size)`; `norms` are those of the groups.
"""
