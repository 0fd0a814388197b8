"""An import fires: what is patched, and how.

Layout: first_import (Starlette is about to be loaded), table (what is patched, and why), points
(putting it in place, `patch()` and `patched()`), functions (who else holds or has wrapped one).
"""
