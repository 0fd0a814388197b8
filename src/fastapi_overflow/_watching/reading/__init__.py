"""An app's code, read and never run: which of its dependencies give a session, and who uses it.

Used by `advise()` and `doctor --app`. Nothing here calls a function of the app, evaluates an
annotation or imports a module; what can't be told from the text is not known.

Layout: source (a function, its text and its line), names (what a name in it stands for), kinds
(what of SQLAlchemy an object or a class is), annotations (what they say), values (what a function
gives), uses (where a function uses a session).
"""
