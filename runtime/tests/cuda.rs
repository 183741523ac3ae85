//! Without a GPU, asking for one is answered with what to do instead.

use moec_runtime::device::DeviceKind;

#[test]
fn without_a_gpu_the_error_says_so_and_names_the_emulator() {
    match DeviceKind::Cuda.open() {
        Ok(device) => assert!(!device.describe().is_empty()),
        Err(errors) => {
            assert_eq!(errors.len(), 1);
            assert!(["E1101", "E1102"].contains(&errors[0].code), "{}", errors[0].message);
            assert!(errors[0].help.as_ref().is_some_and(|h| h.contains("--device emulator")));
        }
    }
}
