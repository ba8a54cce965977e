"""Settings of a run."""

from manymask.planning.plan import CHANGEABLE as CHANGEABLE
from manymask.planning.plan import RECIPES as RECIPES
from manymask.planning.plan import SETTINGS as SETTINGS
from manymask.planning.plan import DataRecord as DataRecord
from manymask.planning.plan import Plan as Plan
from manymask.planning.plan import change_plan as change_plan
from manymask.planning.plan import load_plan as load_plan
from manymask.planning.plan import make_plan as make_plan
from manymask.planning.plan import parse_settings as parse_settings
from manymask.planning.plan import read_plan as read_plan
from manymask.planning.plan import write_plan as write_plan
