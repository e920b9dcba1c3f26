//! Passes on the backends: launched at once without fusion; with it, an operation in the stream that nothing is fused into.

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use burn_backend::tensor::{FloatTensor, IntTensor};
use burn_backend::{DType, Shape};
use burn_cubecl::fusion::FusionCubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime};
use burn_fusion::Fusion;
use burn_fusion::stream::{Operation, OperationStreams};
use burn_ir::{BackendIr, CustomOpIr, HandleContainer, OperationIr, OperationOutput, TensorIr};

use super::Cube;
use super::library::{self, Library, Sum, product_shape};
use super::rows::Pass;
use crate::engine::kernels::{Arithmetic, Terms};

type Plain<R, BT> = CubeBackend<R, f32, i32, BT>;

impl<R: Library, BT: BoolElement> Cube for Plain<R, BT> {
    const F64: bool = R::F64;

    fn library() -> Result<String, String> {
        R::library()
    }

    fn multiply(sums: Vec<Terms<Self>>, arithmetic: Arithmetic) -> Vec<FloatTensor<Self>> {
        multiply(sums, arithmetic)
    }

    fn run<P, const N: usize, const M: usize, const O: usize>(
        pass: P,
        inputs: [FloatTensor<Self>; N],
        optional: [Option<FloatTensor<Self>>; M],
        outputs: [Shape; O],
    ) -> [FloatTensor<Self>; O]
    where
        P: Pass<N, M, O>,
    {
        launch(&pass, inputs, optional, outputs)
    }

    fn indices(targets: IntTensor<Self>) -> FloatTensor<Self> {
        targets
    }
}

fn launch<R: CubeRuntime, P: Pass<N, M, O>, const N: usize, const M: usize, const O: usize>(
    pass: &P,
    inputs: [CubeTensor<R>; N],
    optional: [Option<CubeTensor<R>>; M],
    outputs: [Shape; O],
) -> [CubeTensor<R>; O] {
    let inputs = inputs.map(into_contiguous);
    let (client, device) = (inputs[0].client.clone(), inputs[0].device.clone());
    let empty = |shape| empty_device_contiguous_dtype(client.clone(), device.clone(), shape, DType::F32);
    let outputs = outputs.map(empty);
    pass.launch(inputs, optional.map(|x| x.map(into_contiguous)), outputs.clone());
    outputs
}

/// The sums of products of pairs.
fn multiply<R: Library>(sums: Vec<Vec<(CubeTensor<R>, CubeTensor<R>)>>, arithmetic: Arithmetic) -> Vec<CubeTensor<R>> {
    let output = |terms: &[(CubeTensor<R>, CubeTensor<R>)]| {
        let (lhs, rhs) = &terms[0];
        let shape = product_shape(lhs.meta.shape(), rhs.meta.shape());
        empty_device_contiguous_dtype(lhs.client.clone(), lhs.device.clone(), shape, DType::F32)
    };
    let outputs: Vec<_> = sums.iter().map(|terms| output(terms)).collect();
    let sum = |(terms, output): (_, &CubeTensor<R>)| Sum { terms, output: output.clone() };
    library::enqueue(sums.into_iter().zip(&outputs).map(sum).collect(), arithmetic);
    outputs
}

impl<R: Library, BT: BoolElement> Cube for Fusion<Plain<R, BT>> {
    const F64: bool = R::F64;

    fn library() -> Result<String, String> {
        R::library()
    }

    fn multiply(sums: Vec<Terms<Self>>, arithmetic: Arithmetic) -> Vec<FloatTensor<Self>> {
        let operands = || sums.iter().flatten().flat_map(|(lhs, rhs)| [lhs, rhs]);
        let streams = OperationStreams::with_inputs(operands());
        let client = sums[0][0].0.client.clone();
        let output = |terms: &Terms<Self>| {
            let shape = product_shape(&terms[0].0.shape, &terms[0].1.shape);
            TensorIr::uninit(client.create_empty_handle(), shape, DType::F32)
        };
        let outputs: Vec<TensorIr> = sums.iter().map(output).collect();
        let ir = |terms: Terms<Self>| terms.into_iter().map(|(lhs, rhs)| (lhs.into_ir(), rhs.into_ir())).collect();
        let sums: Vec<Vec<(TensorIr, TensorIr)>> = sums.into_iter().map(ir).collect();
        let inputs: Vec<TensorIr> = sums.iter().flatten().flat_map(|(lhs, rhs)| [lhs, rhs]).cloned().collect();
        let ir = CustomOpIr::new("sums_of_products", &inputs, &outputs);
        let operation = ProductsInStream::<Plain<R, BT>> { sums, outputs, arithmetic, backend: PhantomData };
        client.register(streams, OperationIr::Custom(ir), operation)
    }

    fn run<P, const N: usize, const M: usize, const O: usize>(
        pass: P,
        inputs: [FloatTensor<Self>; N],
        optional: [Option<FloatTensor<Self>>; M],
        outputs: [Shape; O],
    ) -> [FloatTensor<Self>; O]
    where
        P: Pass<N, M, O>,
    {
        let streams = OperationStreams::with_inputs(inputs.iter().chain(optional.iter().flatten()));
        let client = inputs[0].client.clone();
        let inputs = inputs.map(|x| x.into_ir());
        let optional = optional.map(|x| x.map(|x| x.into_ir()));
        let outputs = outputs.map(|shape| TensorIr::uninit(client.create_empty_handle(), shape, DType::F32));
        let all: Vec<_> = inputs.iter().chain(optional.iter().flatten()).cloned().collect();
        let ir = CustomOpIr::new(P::NAME, &all, &outputs);
        let operation = InStream::<P, Plain<R, BT>, N, M, O> { pass, inputs, optional, outputs, backend: PhantomData };
        client.register(streams, OperationIr::Custom(ir), operation).outputs()
    }

    fn indices(targets: IntTensor<Self>) -> FloatTensor<Self> {
        targets
    }
}

/// A pass that waits in a stream of operations.
struct InStream<P, B, const N: usize, const M: usize, const O: usize> {
    pass: P,
    inputs: [TensorIr; N],
    optional: [Option<TensorIr>; M],
    outputs: [TensorIr; O],
    backend: PhantomData<B>,
}

impl<P: Debug, B, const N: usize, const M: usize, const O: usize> Debug for InStream<P, B, N, M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pass.fmt(f)
    }
}

impl<R: Library, BT: BoolElement, P: Pass<N, M, O>, const N: usize, const M: usize, const O: usize>
    Operation<FusionCubeRuntime<R>> for InStream<P, Plain<R, BT>, N, M, O>
{
    fn execute(&self, handles: &mut HandleContainer<<Plain<R, BT> as BackendIr>::Handle>) {
        let inputs = self.inputs.each_ref().map(|x| handles.get_float_tensor::<Plain<R, BT>>(x));
        let optional = self.optional.each_ref();
        let optional = optional.map(|x| x.as_ref().map(|x| handles.get_float_tensor::<Plain<R, BT>>(x)));
        let shapes = self.outputs.each_ref().map(|x| x.shape.clone());
        for (ir, output) in self.outputs.iter().zip(launch(&self.pass, inputs, optional, shapes)) {
            handles.register_float_tensor::<Plain<R, BT>>(&ir.id, output);
        }
    }
}

/// Sums of products that wait in a stream of operations.
struct ProductsInStream<B> {
    sums: Vec<Vec<(TensorIr, TensorIr)>>,
    outputs: Vec<TensorIr>,
    arithmetic: Arithmetic,
    backend: PhantomData<B>,
}

impl<B> Debug for ProductsInStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sums of products", self.sums.len())
    }
}

impl<R: Library, BT: BoolElement> Operation<FusionCubeRuntime<R>> for ProductsInStream<Plain<R, BT>> {
    fn execute(&self, handles: &mut HandleContainer<<Plain<R, BT> as BackendIr>::Handle>) {
        let mut get = |x: &TensorIr| handles.get_float_tensor::<Plain<R, BT>>(x);
        let terms = |terms: &Vec<(TensorIr, TensorIr)>| terms.iter().map(|(lhs, rhs)| (get(lhs), get(rhs))).collect();
        let sums = self.sums.iter().map(terms).collect();
        for (ir, output) in self.outputs.iter().zip(multiply(sums, self.arithmetic)) {
            handles.register_float_tensor::<Plain<R, BT>>(&ir.id, output);
        }
    }
}
