"""What data is like, what is wrong with it, and the settings of a run that follow."""

from manymask.planning.facts import ImageFacts as ImageFacts
from manymask.planning.findings import Finding as Finding
from manymask.planning.fingerprint import Fingerprint as Fingerprint
from manymask.planning.fingerprint import read_fingerprint as read_fingerprint
from manymask.planning.fingerprint import write_fingerprint as write_fingerprint
from manymask.planning.plan import AUTO as AUTO
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
from manymask.planning.planner import Decision as Decision
from manymask.planning.planner import fit_schedule as fit_schedule
from manymask.planning.planner import format_value as format_value
from manymask.planning.planner import list_decisions as list_decisions
from manymask.planning.planner import plan_training as plan_training
from manymask.planning.planner import write_explanation as write_explanation
from manymask.planning.rules import Machine as Machine
from manymask.planning.rules import StepCost as StepCost
from manymask.planning.sampling import weigh_images as weigh_images
