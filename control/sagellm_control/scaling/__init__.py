"""How many engines a model wants, and starting and stopping them.

advice      from figures to a recommendation; pure
launcher    what starts and stops engines: an interface, and one for processes of this machine
manager     puts both together
"""

from .advice import Advice, ScalingLimits, advise
from .launcher import EngineLauncher, LaunchedEngine, ProcessLauncher
from .manager import ScalingManager

__all__ = [
    "Advice",
    "EngineLauncher",
    "LaunchedEngine",
    "ProcessLauncher",
    "ScalingLimits",
    "ScalingManager",
    "advise",
]
