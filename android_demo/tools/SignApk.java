import com.android.apksig.ApkSigner;
import com.android.apksig.ApkVerifier;
import java.io.File;
import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.X509Certificate;
import java.util.List;

/** Signs an APK and verifies it again: SignApk KEYSTORE PASSWORD ALIAS MIN_SDK IN OUT. Prints the schemes found. */
final class SignApk {
    public static void main(String[] args) throws Exception {
        char[] password = args[1].toCharArray();
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (FileInputStream stream = new FileInputStream(args[0])) {
            store.load(stream, password);
        }
        PrivateKey key = (PrivateKey) store.getKey(args[2], password);
        X509Certificate certificate = (X509Certificate) store.getCertificate(args[2]);
        int minSdk = Integer.parseInt(args[3]);
        File out = new File(args[5]);
        new ApkSigner.Builder(List.of(new ApkSigner.SignerConfig.Builder(args[2], key, List.of(certificate)).build()))
                .setInputApk(new File(args[4]))
                .setOutputApk(out)
                .setMinSdkVersion(minSdk)
                .setV1SigningEnabled(true)
                .setV2SigningEnabled(true)
                .setV3SigningEnabled(true)
                .setAlignmentPreserved(true)
                .build()
                .sign();
        ApkVerifier.Result result = new ApkVerifier.Builder(out).setMinCheckedPlatformVersion(minSdk).build().verify();
        if (!result.isVerified()) {
            System.err.println(result.getErrors() + " " + result.getAllErrors());
            System.exit(1);
        }
        System.out.println((result.isVerifiedUsingV1Scheme() ? "v1 " : "") + (result.isVerifiedUsingV2Scheme() ? "v2 " : "")
                + (result.isVerifiedUsingV3Scheme() ? "v3" : ""));
    }
}
