"""`python -m fedrecon`: the command line."""

import sys

from fedrecon.experiment.cli import main

sys.exit(main())
