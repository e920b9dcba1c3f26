//! The one walk over a module's float parameters, which knows where it is.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, backend::Backend};

use super::names::Names;

/// Where a walk over a module stands: feed it `enter_module` and `exit_module`, ask it for the name.
#[derive(Debug)]
pub struct Path {
    names: Names,
    elements: Vec<String>,
    container: Vec<String>,
}

impl Path {
    fn new(names: &Names) -> Self {
        Self { names: *names, elements: Vec::new(), container: Vec::new() }
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.elements.push(name.to_owned());
        self.container.push(container.to_owned());
    }

    fn exit(&mut self) {
        self.elements.pop();
        self.container.pop();
    }

    /// Name of the parameter here.
    pub fn name(&self) -> String {
        self.names.of_path(&self.elements)
    }

    /// Running statistics of BatchNorm: burn walks over them like parameters, but they are state.
    pub fn is_state(&self) -> bool {
        let in_batch_norm = self.container.last().is_some_and(|container| container.ends_with("BatchNorm"));
        in_batch_norm && self.elements.last().is_some_and(|element| element.starts_with("running_"))
    }
}

/// What is done at each float of a module, BatchNorm's running statistics among them.
pub trait VisitFloat<B: Backend> {
    /// Does it.
    fn visit<const D: usize>(&mut self, path: &Path, param: &Param<Tensor<B, D>>);
}

/// What each float of a module becomes, BatchNorm's running statistics among them.
pub trait MapFloat<B: Backend> {
    /// The new one.
    fn map<const D: usize>(&mut self, path: &Path, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>>;
}

/// Goes over a module's floats, in the order of its fields, and gives the visitor back.
pub fn visit<B: Backend, M: Module<B>, V: VisitFloat<B>>(module: &M, names: &Names, visitor: V) -> V {
    let mut walk = Walk { path: Path::new(names), each: visitor };
    module.visit(&mut walk);
    walk.each
}

/// The module with new floats, and what made them.
pub fn map<B: Backend, M: Module<B>, V: MapFloat<B>>(module: M, names: &Names, mapper: V) -> (M, V) {
    let mut walk = Walk { path: Path::new(names), each: mapper };
    let module = module.map(&mut walk);
    (module, walk.each)
}

struct Walk<V> {
    path: Path,
    each: V,
}

impl<B: Backend, V: VisitFloat<B>> ModuleVisitor<B> for Walk<V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.each.visit(&self.path, param);
    }
}

impl<B: Backend, V: MapFloat<B>> ModuleMapper<B> for Walk<V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        self.each.map(&self.path, param)
    }
}
