"""The rules of rules_python that the BUILD files load, as Bazel 4 has them."""

py_binary = native.py_binary
py_library = native.py_library
py_test = native.py_test
