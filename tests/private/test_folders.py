"""Folders and files of this user, of root and of others, with every mode, and links, pipes and devices."""

import os
import stat
import struct

import pytest

from hyperfocal.private.folders import ACL, NotPrivateError, cache_folder, create_file, open_file, opened, warn_unused
from user_cases import OTHER, another_user, give, needs_root, public_folder

WRITABLE_BY_ALL = [0o702, 0o777, 0o1777, 0o703, 0o3777]


def is_used(path, **options) -> bool:
    """Return whether a folder is used as a cache, and read from it if so."""
    try:
        with cache_folder(path, **options) as number:
            os.close(os.open(".", os.O_RDONLY, dir_fd=number))
            return True
    except NotPrivateError:
        return False


def folder(path, mode=0o700):
    path.mkdir()
    path.chmod(mode)
    return path


class TestFolders:
    @pytest.mark.parametrize("mode", [0o700, 0o500, 0o755, 0o711, 0o750, 0o2755, 0o1755])
    def test_a_folder_that_only_its_user_can_change(self, tmp_path, mode):
        assert is_used(folder(tmp_path / "mine", mode))

    @pytest.mark.parametrize("mode", WRITABLE_BY_ALL)
    def test_a_folder_that_all_can_change(self, tmp_path, mode):
        place = folder(tmp_path / "open", mode)
        with pytest.raises(NotPrivateError, match=rf"mode {mode:04o}; `chmod go-w` changes that"), cache_folder(place):
            pass
        place.chmod(0o755)  # as the message says
        assert is_used(place)

    @needs_root
    @pytest.mark.parametrize("mode", [0o700, 0o755, 0o500])
    def test_a_folder_of_another_user(self, tmp_path, mode):
        """The case of sudo with HOME unchanged."""
        place = give(folder(tmp_path / "theirs", mode))
        with pytest.raises(NotPrivateError, match=f"belongs to another user, uid {OTHER}"), cache_folder(place):
            pass

    @needs_root
    def test_a_folder_of_root_is_used_by_others(self):
        """Such as a cache that is part of an image. Root can change everything anyway."""
        with public_folder() as place, another_user(), opened(place) as number:
            assert os.fstat(number).st_uid == 0

    @needs_root
    @pytest.mark.parametrize(("group", "used"), [(0, True), (100, False), (OTHER, False)])
    def test_a_group_is_private_if_it_has_no_other_member(self, tmp_path, group, used):
        """Root is alone in the group root, as users are in theirs where umask is 002."""
        place = folder(tmp_path / "group")
        os.chown(place, 0, group)
        place.chmod(0o775)
        assert is_used(place) is used

    @needs_root
    def test_a_list_of_users_is_not_a_private_group(self, tmp_path):
        """With such a list the bits of the group stand for all users in it."""
        place = folder(tmp_path / "listed")
        entries = [
            (0x01, 7, 2**32 - 1),
            (0x02, 7, OTHER),
            (0x04, 5, 2**32 - 1),
            (0x10, 7, 2**32 - 1),
            (0x20, 5, 2**32 - 1),
        ]
        content = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        try:
            os.setxattr(place, ACL, content)
        except OSError as error:
            pytest.skip(f"no such lists here: {error}")
        assert stat.S_IMODE(place.stat().st_mode) == 0o775
        assert not is_used(place)

    def test_missing_folders_are_made_private_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            with cache_folder(tmp_path / "a" / "b" / "c") as number:
                create_file("file", number).close()
        finally:
            os.umask(before)
        made = [tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/c", tmp_path / "a/b/c/file"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o700, 0o700, 0o700, 0o600]

    @needs_root
    def test_no_folder_of_root_appears_in_a_home_of_another_user(self, tmp_path):
        home = give(folder(tmp_path / "home"))
        assert not is_used(home / ".cache" / "hyperfocal", below_own=True)
        assert list(home.iterdir()) == []
        assert is_used(home / "named" / "cache")  # by HYPERFOCAL_CACHE

    @pytest.mark.parametrize("kind", ["file", "dangling", "circle"])
    def test_no_folder(self, tmp_path, kind):
        (tmp_path / "file").write_text("x")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        for place in (tmp_path / kind, tmp_path / kind / "below"):
            with pytest.raises(OSError, match=r"No such file|Not a directory|Too many"), cache_folder(place):
                pass
        assert not (tmp_path / "nowhere").exists()


class TestLinks:
    def test_a_link_of_this_user(self, tmp_path):
        folder(tmp_path / "disk")
        (tmp_path / "home").symlink_to("disk")
        assert is_used(tmp_path / "home")
        assert is_used(tmp_path / "home" / "cache")
        assert (tmp_path / "disk" / "cache").is_dir()

    @needs_root
    @pytest.mark.parametrize("below", ["", "cache", "a/b"])
    def test_a_link_of_another_user(self, tmp_path, below):
        """He may link to a folder of root, such as /etc, where root would then write."""
        target = folder(tmp_path / "etc")
        (tmp_path / "planted").symlink_to(target)
        os.lchown(tmp_path / "planted", OTHER, OTHER)
        (tmp_path / "mine").symlink_to(tmp_path / "planted")  # leads there through a link of root
        for start in ("planted", "mine"):
            assert not is_used(tmp_path / start / below)
        assert list(target.iterdir()) == []

    def test_a_folder_within_an_open_one_is_no_link(self, tmp_path):
        folder(tmp_path / "elsewhere")
        (tmp_path / "entry").symlink_to("elsewhere")
        with opened(tmp_path) as number, pytest.raises(NotADirectoryError), opened("entry", within=number):
            pass


class TestFiles:
    def test_what_is_created_can_be_opened(self, tmp_path):
        with opened(tmp_path) as number:
            with create_file("x", number) as file:
                file.write(b"abc")
            with open_file("x", number) as file:
                assert file.read() == b"abc"

    @pytest.mark.parametrize("kind", ["file", "link", "dangling", "folder"])
    def test_a_taken_name_is_not_written_to(self, tmp_path, kind):
        (tmp_path / "mine").write_text("mine")
        make = {
            "file": lambda path: path.write_text("mine"),
            "link": lambda path: path.symlink_to("mine"),
            "dangling": lambda path: path.symlink_to("new"),
            "folder": lambda path: path.mkdir(),
        }
        make[kind](tmp_path / "x")
        with opened(tmp_path) as number, pytest.raises(FileExistsError):
            create_file("x", number)
        assert (tmp_path / "mine").read_text() == "mine"
        assert not (tmp_path / "new").exists()

    def test_links_pipes_and_folders_are_not_read(self, tmp_path):
        """A pipe that nobody writes to would be waited for."""
        (tmp_path / "file").write_text("x")
        (tmp_path / "link").symlink_to("file")
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for name in ("link", "folder", "pipe"):
            with opened(tmp_path) as number, pytest.raises(NotPrivateError, match=f"{name} is "):
                open_file(name, number)

    @needs_root
    def test_a_device_is_not_read(self, tmp_path):
        try:
            os.mknod(tmp_path / "zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        except OSError as error:
            pytest.skip(f"no devices here: {error}")
        with opened(tmp_path) as number, pytest.raises(NotPrivateError, match="zero is not a file"):
            open_file("zero", number)

    @pytest.mark.parametrize("mode", [0o602, 0o666, 0o646])
    def test_a_file_that_all_can_write(self, tmp_path, mode):
        (tmp_path / "x").touch()
        (tmp_path / "x").chmod(mode)
        with opened(tmp_path) as number, pytest.raises(NotPrivateError, match=f"write to x, mode {mode:04o}"):
            open_file("x", number)

    @needs_root
    def test_a_file_of_another_user(self, tmp_path):
        (tmp_path / "x").touch(0o600)
        os.chown(tmp_path / "x", OTHER, OTHER)
        with (
            opened(tmp_path) as number,
            pytest.raises(NotPrivateError, match=f"x belongs to another user, uid {OTHER}"),
        ):
            open_file("x", number)


def test_the_reason_is_logged_once(caplog, tmp_path):
    for _ in range(2):
        warn_unused(tmp_path / "once", NotPrivateError("it belongs to another user, uid 7"))
        warn_unused(tmp_path / "another", OSError(28, "No space left on device", "name"))
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "is not used (it belongs to another user, uid 7). Mend that, or name another folder with the variable "
        "HYPERFOCAL_CACHE",
        "is not used (No space left on device). Mend that, or name another folder with the variable HYPERFOCAL_CACHE",
    ]
