"""`python -m fedrecon`: the command line."""

import sys

from fedrecon.experiment.cli.main import main

sys.exit(main())
