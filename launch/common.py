"""The flags that every launcher has, and how a launcher ends."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cptlaw.errors import UserError
from cptlaw.experiments import config as config_lib
from cptlaw.experiments import study as study_lib

_CONFIG = config_flags.DEFINE_config_file("config", None, "A study's config file, such as configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the study is kept, such as runs/demo.")
_UPDATE = flags.DEFINE_bool("update-config", False, "Keep the runs of another config in the workdir; train the rest.")


def prepare() -> study_lib.Prepared:
    """The study of the flags: config checked, workdir claimed, token stores built."""
    return study_lib.prepare(study(), Path(_WORKDIR.value), update_config=_UPDATE.value)


def study() -> config_lib.Study:
    """The checked config, overrides (--config.model.layers=4) included."""
    try:
        return config_lib.parse(_CONFIG.value)
    except OSError as error:  # ml_collections keeps a failure to load until the config is used
        raise UserError(
            f"--config: cannot be read: {str(error.__cause__ or error).splitlines()[-1].strip()}"
        ) from error


def run(main: Callable[[], None]) -> None:
    """Runs a launcher under absl; what the user can mend is a message, not a traceback."""

    def guarded(argv: list[str]) -> int:
        try:
            if argv[1:]:
                raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value")
            main()
        except UserError as error:
            print(f"launch: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("launch: interrupted; run the same command again to continue", file=sys.stderr)
            return 130
        return 0

    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.WARNING)  # Orbax tells absl's log of every step it takes
    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:  # how ml_collections says that the config has no such field
        field = re.findall(r"[a-z_]\w*", str(error))[0]
        print(f"launch: {field}: the config file has no such field; add it there to override it", file=sys.stderr)
        sys.exit(2)
