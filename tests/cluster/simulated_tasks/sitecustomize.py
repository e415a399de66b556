"""On the PYTHONPATH of some tasks: theirs are simulated servers, behind the protocol of the real engines."""

from gra_hpc.engines import node
from tools.simulated.server import launcher

_, *others = node.Node.__init__.__defaults__ or ()
node.Node.__init__.__defaults__ = (launcher(), *others)
