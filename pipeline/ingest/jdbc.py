"""The options of Spark's JDBC reader that a configuration need not name."""

import re
from collections.abc import Mapping

DRIVERS = {
    "postgresql": "org.postgresql.Driver",
    "redshift": "com.amazon.redshift.Driver",
    "mysql": "com.mysql.cj.jdbc.Driver",
    "mariadb": "org.mariadb.jdbc.Driver",
    "sqlserver": "com.microsoft.sqlserver.jdbc.SQLServerDriver",
    "oracle": "oracle.jdbc.OracleDriver",
    "db2": "com.ibm.db2.jcc.DB2Driver",
    "snowflake": "net.snowflake.client.jdbc.SnowflakeDriver",
    "clickhouse": "com.clickhouse.jdbc.ClickHouseDriver",
    "trino": "io.trino.jdbc.TrinoDriver",
    "h2": "org.h2.Driver",
}
"""The driver's class, by what follows `jdbc:` in the address."""
NEEDS_JAR = 'the driver\'s JAR is named under [spark]: conf."spark.jars" = "/path/to/driver.jar"'


def complete_options(options: Mapping[str, str]) -> dict[str, str]:
    """A reader's options with what follows from its address, unless the configuration says otherwise.

    Java's own look-up of a driver does not see the JARs of `spark.jars`, so the class is named. Times without a zone
    stay without one: Spark would take them for times of its host's zone.

    >>> complete_options({"url": "jdbc:postgresql://host/db", "dbtable": "log"})["driver"]
    'org.postgresql.Driver'
    >>> "driver" in complete_options({"url": "jdbc:own:host", "dbtable": "log"})
    False
    """
    given = {key.lower(): value for key, value in options.items()}
    own = {"preferTimestampNTZ": "true"}
    named = re.match(r"jdbc:(\w+):", given.get("url", ""))
    if named and (driver := DRIVERS.get(named[1].lower())):
        own["driver"] = driver
    return {key: value for key, value in own.items() if key.lower() not in given} | dict(options)
