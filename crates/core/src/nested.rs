//! Maps by a key and a value that have no empty maps in them.

use alloc::{borrow::ToOwned, collections::BTreeMap, string::String};
use core::borrow::Borrow;

/// The entry of a key and a value, made if there is none.
pub(crate) fn entry<'a, K, Q, V>(
    lists: &'a mut BTreeMap<K, BTreeMap<String, V>>,
    key: &Q,
    value: &str,
) -> &'a mut V
where
    K: Ord + Borrow<Q>,
    Q: Ord + ToOwned<Owned = K> + ?Sized,
    V: Default,
{
    if !lists.contains_key(key) {
        lists.insert(key.to_owned(), BTreeMap::new());
    }
    let values = lists.get_mut(key).expect("it is there now");
    if !values.contains_key(value) {
        values.insert(value.into(), V::default());
    }
    values.get_mut(value).expect("it is there now")
}

/// Removes the entry of a key and a value.
pub(crate) fn forget<K, Q, V>(lists: &mut BTreeMap<K, BTreeMap<String, V>>, key: &Q, value: &str)
where
    K: Ord + Borrow<Q>,
    Q: Ord + ?Sized,
{
    let Some(values) = lists.get_mut(key) else { return };
    values.remove(value);
    if values.is_empty() {
        lists.remove(key);
    }
}
