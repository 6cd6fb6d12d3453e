# SPDX-License-Identifier: MIT
"""Checkpoints of other programs to model files, without running anything that those files contain.

archive.py     the bytes of a torch file: zip or the older format, tensors out of storages
unpickle.py    pickles to plain data: a whitelist of names, everything else is refused by name
schnetpack.py  SchNetPack 2.x whole-module files     -> ModelFile
dtu.py         cPaiNN, painn-sli, curator state dictionaries -> ModelFile
nff.py         nff's whole-module files and training states -> ModelFile
state.py       state dictionaries: every tensor is taken, or the file is refused
torch_module.py  modules in a whole-module file, with their places for messages
verify.py      evaluates what was written
"""
