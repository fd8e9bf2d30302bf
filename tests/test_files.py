"""Files appear whole or not at all; links stay links and pipes stay pipes."""

import os
import stat
import threading

import pytest

from lglsq_jax.files import write_whole


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "there") == ["file"]
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "there" / "later")
    write_whole(dangling, b"new")
    assert (tmp_path / "there" / "later").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, b"through")
    reader.join(timeout=30)
    assert found == [b"through"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_in_the_way_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "name", b"new")
    assert os.listdir(tmp_path) == ["name"]
