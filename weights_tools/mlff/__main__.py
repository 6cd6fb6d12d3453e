# SPDX-License-Identifier: MIT
"""python -m mlff"""
import sys

from .cli import main

sys.exit(main())
