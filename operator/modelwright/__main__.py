"""`python -m modelwright`: the operator."""

import sys

from modelwright.app import main

sys.exit(main())
