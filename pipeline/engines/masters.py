"""Where a master of Spark's runs its executors."""


def is_on_this_machine(master: str) -> bool:
    """Whether a master runs its executors here, with this interpreter and disk.

    >>> [is_on_this_machine(each) for each in ("local[*]", "local-cluster[2,1,1024]", "spark://h:7077", "yarn")]
    [True, True, False, False]
    """
    return master.startswith("local")


def is_one_process(master: str) -> bool:
    """Whether a master's executors are threads of the driver.

    >>> [is_one_process(each) for each in ("local", "local[*]", "local-cluster[2,1,1024]", "yarn")]
    [True, True, False, False]
    """
    return is_on_this_machine(master) and not master.startswith("local-cluster")
