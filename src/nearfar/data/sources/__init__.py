"""Sources of real pairs that need no download."""

from nearfar.data.sources.python_docs import PythonDocs, examples, read_python_docs

__all__ = ["PythonDocs", "examples", "read_python_docs"]
