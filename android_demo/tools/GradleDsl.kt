@file:Suppress("unused", "UNUSED_PARAMETER")

package dsl

import org.gradle.api.NamedDomainObjectCollection
import org.gradle.api.NamedDomainObjectProvider
import org.gradle.api.PolymorphicDomainObjectContainer
import org.gradle.api.Project
import org.gradle.api.artifacts.Dependency
import org.gradle.api.artifacts.MinimalExternalModuleDependency
import org.gradle.api.artifacts.ProjectDependency
import org.gradle.api.artifacts.dsl.DependencyHandler
import org.gradle.api.provider.Property
import org.gradle.api.provider.Provider
import org.gradle.plugin.use.PluginDependenciesSpec
import org.gradle.plugin.use.PluginDependencySpec

// What Gradle's Kotlin DSL adds to its API, as far as the scripts use it: no package registry has that jar. Only its
// types matter, as nothing here is run.

fun <T : Any> Property<T>.assign(value: T?): Unit = TODO()

operator fun <T : Any> NamedDomainObjectCollection<T>.get(name: String): T = TODO()

inline fun <reified T : Any> PolymorphicDomainObjectContainer<in T>.register(
    name: String,
    noinline configure: T.() -> Unit,
): NamedDomainObjectProvider<T> = TODO()

fun Project.plugins(block: PluginDependenciesSpec.() -> Unit): Unit = TODO()

infix fun PluginDependencySpec.apply(apply: Boolean): PluginDependencySpec = TODO()

val PluginDependenciesSpec.`maven-publish`: PluginDependencySpec get() = TODO()

fun Project.dependencies(block: DependencyHandler.() -> Unit): Unit = TODO()

fun DependencyHandler.project(path: String): ProjectDependency = TODO()

fun DependencyHandler.api(dependency: Dependency): Unit = TODO()

fun DependencyHandler.api(dependency: Provider<MinimalExternalModuleDependency>): Unit = TODO()

fun DependencyHandler.implementation(dependency: Dependency): Unit = TODO()

fun DependencyHandler.implementation(dependency: Provider<MinimalExternalModuleDependency>): Unit = TODO()

fun DependencyHandler.testImplementation(dependency: Provider<MinimalExternalModuleDependency>): Unit = TODO()
