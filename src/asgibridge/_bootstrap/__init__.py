"""A directory for the front of a child Python's path, a package only so that it is shipped.

``asgibridge run`` puts it into PYTHONPATH, for ``sitecustomize``; `asgibridge.install` lets
multiprocessing's children import ``asgibridge_bootstrap`` from it. Nothing imports it as a package.
"""
