import pickle
import signal

from manymask.errors import Interrupted


def test_an_interruption_comes_out_of_another_process_whole():
    error = pickle.loads(pickle.dumps(Interrupted(signal.SIGINT, "go on later")))
    assert (str(error), error.signal_number) == ("stopped by SIGINT; go on later", 2)
