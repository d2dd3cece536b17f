//! openraft's own storage suite, run on this crate's storage.

use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::broadcast;

use crate::{
    log_store::LogStore, state_machine::StateMachine, store::Store, type_config::TypeConfig,
};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>> {
        let dir = TempDir::new().expect("a temporary directory");
        let store = Store::open(&dir.path().join("db")).expect("a new database opens");
        let log = LogStore::open(store.clone(), dir.path(), 1).expect("a new log opens");
        let (changes, _) = broadcast::channel(16);
        let snapshots = dir.path().join("snapshots");
        std::fs::create_dir_all(&snapshots).expect("a directory");
        let machine = StateMachine::open(store, snapshots, changes).expect("a new state opens");
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_storage_suite_passes() {
    Suite::test_all(Builder).await.expect("the suite passes");
}
