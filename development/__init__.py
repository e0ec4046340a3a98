"""What dev.py is made of: the environment, the server, and one module per command.

Only the standard library is imported at the top of these modules, because the first call runs in
a Python that has nothing else. Not part of the pack that users install.
"""
