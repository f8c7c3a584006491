"""Virtual time."""

from loadtest.simulator.clock import Clock


def test_clock_keeps_order():
    """Everything is called at its time; what falls on the same time in the order it was asked for."""
    clock, happened = Clock(), []

    def note(name):
        happened.append((name, clock.now))
        if name == "a":
            clock.after(1.0, note, "d")
            clock.after(0.0, note, "b")

    clock.after(2.0, note, "c")
    clock.after(1.0, note, "a")
    clock.run()
    assert happened == [("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 2.0)]
