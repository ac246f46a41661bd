plugins {
    alias(libs.plugins.android.library)
    `maven-publish`
}

android {
    namespace = "org.etpipeline.engine"
    compileSdk = 37
    defaultConfig {
        minSdk = 26
        consumerProguardFiles("consumer-rules.pro")
    }
    publishing { singleVariant("release") { withSourcesJar() } }
}

kotlin {
    jvmToolchain(17)
    compilerOptions { allWarningsAsErrors = true }
}

afterEvaluate {
    publishing { publications.register<MavenPublication>("release") { from(components["release"]) } }
}

dependencies {
    api(project(":core"))
    implementation(libs.executorch)
    implementation(libs.fbjni)
    implementation(libs.nativeloader)
}
