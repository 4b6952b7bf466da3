"""Learn and predict on a dask cluster, with the result of one process."""

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits

from dkvb_estimator import DKVBClassifier, KeyEncoder


def main():
    X, y = load_digits(return_X_y=True)
    rows, labels = da.from_array(X, chunks=(300, 64)), da.from_array(y, chunks=300)  # yours would come from files

    # Any cluster works: Client("tcp://…:8786"). Workers on other machines need one shared folder:

    # set dask's `temporary-directory` to it.
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs="ERROR")
    with cluster, Client(cluster):
        for solver in ("joint", "counts"):
            model = DKVBClassifier(KeyEncoder(128, 64, random_state=0), solver=solver)
            model.fit(rows, labels)  # each worker learns its blocks; the codes of joint stay there
            predicted = model.predict(rows)  # nothing is computed yet
            alone = DKVBClassifier(KeyEncoder(128, 64, random_state=0), solver=solver).fit(X, y)
            difference = np.abs(model.values_ - alone.values_).max()
            print(f"{solver}: accuracy on its own rows {np.mean(predicted.compute() == y):.3f}")
            same = model.encoder_.fingerprint_ == alone.encoder_.fingerprint_
            print(f"{solver}: same keys {same}, values differ by {difference:.0e}")


if __name__ == "__main__":  # worker processes import this file
    main()
