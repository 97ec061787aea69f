"""The same store when locked versions may be written: below them, and below their merges, everything follows at once."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from dvidzarr.repo import overlays
from tests.stateful.test_store_machine import StoreMachine


class FullWriteMachine(StoreMachine):
    """`target` may be any version; a follower that was not told of it must show the same."""

    full_write = True

    @initialize(durability=st.sampled_from(("full", "full", "fast")))
    def begin(self, durability: str) -> None:
        self.patch.setattr(overlays, "_AMENDED_S", 0.01)
        super().begin(durability)

    @rule()
    def open_as_usual(self) -> None:
        """Afterwards everything is locked and finished as if it had always been so."""
        self.catalog.close()
        self.full_write = False
        self.catalog = self.open()
        try:
            self.compare(self.repo)
            self.settle()
            for instance in self.repo.instances.values():
                if instance.versioned:
                    store = instance.dataset.arrays[0]
                    locked = [v.ordinal for v in self.repo.dag if v.locked]
                    rows = [store.postings.written_by(ordinal)[1] for ordinal in locked]
                    assert not any(row["location"].any() for row in rows)
            assert [f for f in self.catalog.verify(deep=True) if f.severity != "note"] == []
            self.write_locked(0)
        finally:
            self.catalog.close()
            self.full_write = True
            self.catalog = self.open()


FullWriteMachine.TestCase.settings = settings(
    settings(),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestFullWrite = FullWriteMachine.TestCase
