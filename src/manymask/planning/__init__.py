"""What data is like, what is wrong with it, and the settings of a run that follow."""

from manymask.planning.machine import Machine as Machine
from manymask.planning.machine import StepCost as StepCost
from manymask.planning.planner import NO_RULE as NO_RULE
from manymask.planning.planner import Decision as Decision
from manymask.planning.planner import fit_schedule as fit_schedule
from manymask.planning.planner import format_value as format_value
from manymask.planning.planner import list_decisions as list_decisions
from manymask.planning.planner import plan_training as plan_training
from manymask.planning.planner import write_explanation as write_explanation
from manymask.planning.sampling import weigh_images as weigh_images
