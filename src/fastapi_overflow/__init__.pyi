from ._patching.points import patch as patch
from ._patching.points import patched as patched
from ._patching.points import patched_by as patched_by
from ._requests.hops import iterate_in_threadpool as iterate_in_threadpool
from ._requests.hops import run_in_threadpool as run_in_threadpool
from ._requests.overloaded import Overloaded as Overloaded
from ._requests.thread_limit import set_thread_limit as set_thread_limit
from ._settings import SettingsError as SettingsError
from ._watching.advice import advise as advise
from ._watching.connections_out import Connection as Connection
from ._watching.connections_out import connections as connections
from ._watching.route_stats import RouteStats as RouteStats
from ._watching.stats import Stats as Stats
from ._watching.stats import is_saturated as is_saturated
from ._watching.stats import stats as stats

__version__: str
