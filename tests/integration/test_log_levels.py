"""`admin log-level` changes what a running node logs, for a time, and also in workers that start meanwhile."""

from __future__ import annotations

from tests.support.supervised import supervised
from tests.support.waiting import poll


def test_levels_change_at_run_time_and_end_by_themselves() -> None:
    with supervised("good") as node:
        code, answer = node.post("log-level", levels="loud")
        assert (code, answer["error"][:34]) == (400, "cannot understand the log level 'l")
        code, [line] = node.post("log-level", levels="velocity::config=debug,supervisor=off", for_s=600)
        assert (code, line["ok"]) == (200, True)
        assert line["text"] == "logging velocity_edge.config=debug,supervisor=off for 600 s"
        said = node.log.count("serves core")
        assert node.post("restart")[0] == 200
        assert node.log.count("serves core") == said
        assert node.post("log-level", levels="supervisor=off", for_s=0.2)[1][-1]["ok"]

        def restarted_and_logged() -> bool:
            assert node.post("restart")[0] == 200
            return node.log.count("serves core") > said

        poll(restarted_and_logged, "lines after the time", 20.0)
        [line] = node.post("log-level")[1]
        assert line["text"] == "logging as configured"
