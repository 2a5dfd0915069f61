//! Namespaces.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use mp_core::{Decoder, Encoder};
use serde::de::DeserializeOwned;

use crate::call::{Made, OnValue};
use crate::link::{Handle, Link, nothing, proxy};
use crate::makers::Maker;
use crate::object::{Object, Repr, separated};
use crate::operation::{Kind, Operation, operations};
use crate::ordered::Ordered;
use crate::{Error, Result};

type Names = Ordered<String, Object>;
type Reply = mp_core::Result<()>;

operations! {
    []
    OnValue<Names>: set get remove contains items;
}

pub(crate) fn make(_: &mut Decoder<'_>) -> mp_core::Result<Made> {
    Ok(Made::new(Arc::new(Mutex::new(Names::default())), operation, kind()))
}

fn kind() -> Kind {
    Kind::plain("Namespace")
}

fn set(names: &mut Names, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    let (name, value) = (from.get()?, from.get()?);
    names.insert(name, value);
    to.put(&()).map(drop)
}

fn get(names: &mut Names, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&names.get(&from.get()?)).map(drop)
}

fn remove(names: &mut Names, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&names.remove(&from.get()?)).map(drop)
}

fn contains(names: &mut Names, from: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&names.contains(&from.get()?)).map(drop)
}

fn items(names: &mut Names, _: &mut Decoder<'_>, to: &mut Encoder) -> Reply {
    to.put(&names.iter().collect::<Vec<_>>()).map(drop)
}

/// A proxy of a namespace in a manager's server: values of any simple type, by their names.
///
/// It prints as Python prints a namespace: in the order of the names, without those that begin with `_`.
///
/// Python: `multiprocessing.Manager().Namespace()`. `ns.x` is `get("x")`, `ns.x = 1` is `set("x", 1)`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_manager::{Error, Manager};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::new()?;
///     let settings = manager.namespace()?; // clone it, and send it to other processes
///     settings.set("x", 10)?;
///     settings.set("y", "hello")?;
///     assert_eq!(settings.get("x")?, 10.into());
///     assert!(matches!(settings.get("z"), Err(Error::KeyMissing)));
///     settings.set("_note", "not shown")?;
///     settings.set("a", 1.5)?;
///     assert_eq!(settings.to_string(), "Namespace(a=1.5, x=10, y='hello')");
///     Ok(())
/// }
/// ```
#[doc(alias = "NamespaceProxy")]
pub struct Namespace {
    handle: Handle,
    of: PhantomData<()>,
}

proxy!(Namespace);

impl Namespace {
    pub(crate) fn create(link: &Arc<Link>) -> Result<Self> {
        let maker = Operation { number: Maker::Namespace as u32, function: make, kind };
        link.make(maker, nothing).map(Self::from_handle)
    }

    fn call<R: DeserializeOwned, F>(
        &self,
        op: Op,
        function: F,
        encode: impl FnOnce(&mut Encoder) -> mp_core::Result<()>,
    ) -> Result<R>
    where
        F: Fn(&mut Names, &mut Decoder<'_>, &mut Encoder) -> Reply + Copy + 'static,
    {
        self.handle.value(Operation { number: op as u32, function, kind }, encode)
    }

    /// Sets a value.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias("setattr", "__setattr__"))]
    pub fn set(&self, name: &str, value: impl Into<Object>) -> Result<()> {
        let value = value.into();
        self.call(Op::set, set, |to| to.put(name)?.put(&value).map(drop))
    }

    /// The value of a name.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](Error::KeyMissing); [every call's](crate#errors).
    #[doc(alias("getattr", "__getattr__"))]
    pub fn get(&self, name: &str) -> Result<Object> {
        let found: Option<Object> = self.call(Op::get, get, |to| to.put(name).map(drop))?;
        found.ok_or(Error::KeyMissing)
    }

    /// Removes a name; gives its value.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](Error::KeyMissing); [every call's](crate#errors).
    #[doc(alias("delattr", "__delattr__"))]
    pub fn remove(&self, name: &str) -> Result<Object> {
        let found: Option<Object> = self.call(Op::remove, remove, |to| to.put(name).map(drop))?;
        found.ok_or(Error::KeyMissing)
    }

    /// Whether there is such a name.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "hasattr")]
    pub fn contains(&self, name: &str) -> Result<bool> {
        self.call(Op::contains, contains, |to| to.put(name).map(drop))
    }

    /// All names and values, in the order the names were set first.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn items(&self) -> Result<Vec<(String, Object)>> {
        self.call(Op::items, items, nothing)
    }
}

/// A name and what it stands for.
struct Row<'a>(&'a (String, Object));

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self((name, value)) = self;
        write!(f, "{name}=")?;
        value.repr(f)
    }
}

impl Repr for Namespace {
    fn repr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = match self.items() {
            Ok(rows) => rows,
            Err(error) => return write!(f, "<Namespace: {error}>"),
        };
        let shown = rows.iter().filter(|(name, _)| !name.starts_with('_'));
        let mut texts: Vec<_> = shown.map(|row| Row(row).to_string()).collect();
        texts.sort_unstable();
        f.write_str("Namespace(")?;
        separated(f, texts, |f, text| f.write_str(&text))?;
        f.write_str(")")
    }
}

impl fmt::Display for Namespace {
    /// The names and values of this moment, as Python prints them; where they cannot be had, why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repr(f)
    }
}
