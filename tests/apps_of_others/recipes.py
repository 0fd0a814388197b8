"""The apps. To add one: a `Recipe`, named in `RECIPES`; `recipe.py` says what the fields mean."""

from __future__ import annotations

from collections.abc import Mapping

from apps_of_others.recipe import Ask, Recipe, Talk


def airflow_token(talk: Talk) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {talk(Ask('/auth/token'))['access_token']}"}


AIRFLOW = Recipe(
    name="apache-airflow",
    also=("psycopg2-binary", "asyncpg"),
    database="sync and async SQLAlchemy, PostgreSQL, 5 + 10",
    environ={
        "AIRFLOW_HOME": "{home}",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "true",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://{postgres}",
    },
    prepare=(("{bin}/airflow", "db", "migrate"), ("{bin}/airflow", "dags", "reserialize")),
    start=("{bin}/airflow", "api-server", "--host", "127.0.0.1", "--port", "{port}", "-w", "1"),
    ready="/api/v2/version",
    log_in=airflow_token,
    asks=(
        Ask("/api/v2/dags?limit=20"),
        Ask("/api/v2/pools"),
        Ask("/ui/dashboard/dag_stats"),
    ),
)


ZENML = Recipe(
    name="zenml[server]",
    database="sync SQLModel, SQLite, 5 + 10",
    environ={
        "ZENML_CONFIG_PATH": "{home}/config",
        "ZENML_LOCAL_STORES_PATH": "{home}/stores",
        "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_SERVER_AUTH_SCHEME": "NO_AUTH",
        "ZENML_SERVER_AUTO_ACTIVATE": "1",
    },
    start=(
        *("{bin}/uvicorn", "zenml.zen_server.zen_server_api:app"),
        *("--host", "127.0.0.1", "--port", "{port}"),
    ),
    ready="/health",
    asks=(
        Ask("/api/v1/current-user"),
        Ask("/api/v1/projects"),
        Ask("/api/v1/stacks"),
        Ask("/api/v1/flavors?size=20"),
    ),
)

MLFLOW = Recipe(
    name="mlflow",
    also=("psycopg2-binary",),
    database="sync SQLAlchemy, PostgreSQL, 5 + 10; partly in a mounted Flask app",
    environ={"MLFLOW_DISABLE_TELEMETRY": "true"},
    start=(
        *("{bin}/mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"),
        *("--backend-store-uri", "postgresql+psycopg2://{postgres}"),
        *("--artifacts-destination", "{home}/artifacts"),
    ),
    ready="/health",
    asks=(
        Ask("/api/3.0/mlflow/mcp-servers"),
        Ask("/api/3.0/mlflow/mcp-servers/endpoints"),
        Ask("/api/2.0/mlflow/experiments/search?max_results=50"),
        Ask("/api/2.0/mlflow/registered-models/search"),
    ),
)


def gateway_token(talk: Talk) -> Mapping[str, str]:
    who = {"email": "admin@example.com", "password": "Only-4-this-test!"}
    token = talk(Ask("/auth/login", "POST", json=who))["access_token"]
    return {"Authorization": f"Bearer {token}"}


CONTEXTFORGE = Recipe(
    name="mcp-contextforge-gateway",
    also=("psycopg[binary]",),
    database="sync SQLAlchemy, PostgreSQL, 200 + 10",
    environ={
        "DATABASE_URL": "postgresql+psycopg://{postgres}",
        "JWT_SECRET_KEY": "of-32-characters-and-more-for-this-test",
        "AUTH_ENCRYPTION_SECRET": "of-32-characters-and-more-for-this-test",
        "PLATFORM_ADMIN_EMAIL": "admin@example.com",
        "PLATFORM_ADMIN_PASSWORD": "Only-4-this-test!",
        "ADMIN_REQUIRE_PASSWORD_CHANGE_ON_BOOTSTRAP": "false",
        "CACHE_TYPE": "memory",
        "RATE_LIMITING_ENABLED": "false",
    },
    start=("{bin}/mcpgateway", "--host", "127.0.0.1", "--port", "{port}"),
    ready="/health",
    log_in=gateway_token,
    asks=(Ask("/tools"), Ask("/servers"), Ask("/gateways"), Ask("/teams/"), Ask("/health")),
)


PYSPUR = Recipe(
    name="pyspur",
    also=("click<8.2",),  # its command line needs that
    database="sync SQLAlchemy, SQLite, 5 + 10",
    environ={"DISABLE_ANONYMOUS_TELEMETRY": "true"},
    start=("{bin}/pyspur", "serve", "--sqlite", "--host", "127.0.0.1", "--port", "{port}"),
    ready="/api/wf/",
    asks=(Ask("/api/wf/"), Ask("/api/run/"), Ask("/api/ds/"), Ask("/api/user/")),
)

SKYPILOT = Recipe(
    name="skypilot",
    database="sync and async SQLAlchemy, SQLite",
    environ={"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
    start=(
        *("{bin}/python", "-m", "sky.server.server"),
        *("--host", "127.0.0.1", "--port", "{port}"),
    ),
    ready="/api/health",
    asks=(Ask("/users"), Ask("/users/role"), Ask("/api/status")),
)

AUTOGEN = Recipe(
    name="autogenstudio",
    database="sync SQLModel, SQLite, 5 + 10",
    start=(
        *("{bin}/autogenstudio", "ui", "--host", "127.0.0.1", "--port", "{port}"),
        *("--appdir", "{home}"),
    ),
    ready="/api/version",
    asks=(
        Ask("/api/sessions/?user_id=guestuser@gmail.com"),
        Ask("/api/teams/?user_id=guestuser@gmail.com"),
        Ask("/api/settings/?user_id=guestuser@gmail.com"),
    ),
)

QUETZ = Recipe(
    name="quetz-server",
    also=("fastapi<0.116", "psycopg2-binary"),  # it calls what Starlette 1.0 has removed
    database="sync SQLAlchemy, PostgreSQL, 5 + 10",
    files={
        "quetz.toml": """\
[github]
client_id = "none"
client_secret = "none"
[sqlalchemy]
database_url = "postgresql+psycopg2://{postgres}"
[session]
secret = "b72376b88e6f249cb0921052ea8a092381ca17fd8bb0caf4d847e337b3d34cf8"
https_only = false
"""
    },
    prepare=(("{bin}/quetz", "create", "channels", "--copy-conf", "quetz.toml", "--dev"),),
    start=("{bin}/quetz", "start", "channels", "--host", "127.0.0.1", "--port", "{port}"),
    ready="/api/channels",
    asks=(
        Ask("/api/channels"),
        Ask("/api/channels/channel0/packages"),
        Ask("/api/channels/channel0/packages/package0/versions"),
    ),
)

AIM = Recipe(
    name="aim",
    database="sync SQLAlchemy, SQLite, 10 + 20",
    environ={"AIM_UI_TELEMETRY_ENABLED": "0"},
    prepare=(("{bin}/aim", "init"),),
    start=("{bin}/aim", "up", "--host", "127.0.0.1", "--port", "{port}"),
    ready="/api/projects/",
    asks=(Ask("/api/projects/"), Ask("/api/experiments/"), Ask("/api/dashboards/")),
)

FEAST = Recipe(
    name="feast[grpcio]",
    also=("fastapi<0.137", "psycopg2-binary"),  # it uses what newer ones have removed
    database="sync SQLAlchemy, PostgreSQL, 5 + 10",
    environ={"FEAST_USAGE": "False"},
    files={
        "feature_store.yaml": """\
project: shop
provider: local
registry: {registry_type: sql, path: "postgresql+psycopg2://{postgres}", cache_ttl_seconds: 60}
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
""",
        "shop.py": """\
from feast import Entity
customer = Entity(name="customer", join_keys=["customer_id"])
driver = Entity(name="driver", join_keys=["driver_id"])
""",
    },
    prepare=(("{bin}/feast", "apply"),),
    start=(
        *("{bin}/feast", "serve_registry", "--no-grpc", "--rest-api"),
        *("--host", "127.0.0.1", "--rest-port", "{port}"),
    ),
    ready="/api/v1/projects",
    asks=(
        Ask("/api/v1/projects?allow_cache=false"),
        Ask("/api/v1/entities?project=shop&allow_cache=false"),
        Ask("/api/v1/entities/customer?project=shop&allow_cache=false"),
    ),
)

GALAXY = Recipe(
    name="galaxy-web-apps",
    also=("psycopg2-binary",),
    database="sync SQLAlchemy, PostgreSQL, 5 + 10",
    environ={
        "GALAXY_CONFIG_OVERRIDE_DATABASE_CONNECTION": "postgresql+psycopg2://{postgres}",
        "GALAXY_CONFIG_OVERRIDE_BOOTSTRAP_ADMIN_API_KEY": "only-for-this-test",
    },
    start=(
        *("{bin}/uvicorn", "--factory", "galaxy.webapps.galaxy.fast_factory:factory"),
        *("--host", "127.0.0.1", "--port", "{port}"),
    ),
    ready="/api/version",
    log_in=lambda talk: {"x-api-key": "only-for-this-test"},
    asks=(Ask("/api/users"), Ask("/api/roles"), Ask("/api/histories/published")),
)

RECIPES = (
    *(AIM, AIRFLOW, AUTOGEN, CONTEXTFORGE, FEAST, GALAXY, MLFLOW, PYSPUR, QUETZ, SKYPILOT, ZENML),
)
