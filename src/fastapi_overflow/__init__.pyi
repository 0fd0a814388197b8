from ._advice import advise as advise
from ._control import set_thread_limit as set_thread_limit
from ._hops import iterate_in_threadpool as iterate_in_threadpool
from ._hops import run_in_threadpool as run_in_threadpool
from ._patch import patch as patch
from ._patch import patched as patched
from ._settings import SettingsError as SettingsError
from ._stats import Stats as Stats
from ._stats import is_saturated as is_saturated
from ._stats import stats as stats

__version__: str
