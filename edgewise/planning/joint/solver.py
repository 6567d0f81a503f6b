"""HiGHS with the settings that every program here shares."""

import highspy


def quiet_solver(**options: float) -> highspy.Highs:
    solver = highspy.Highs()
    for option, setting in {
        "output_flag": False,
        "threads": 1,
        "random_seed": 0,
        **options,
    }.items():
        solver.setOptionValue(option, setting)
    return solver
