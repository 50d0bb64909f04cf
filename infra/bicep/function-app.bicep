// The gateway as a function app on Flex Consumption: its plan, its scale and its settings.

@description('Name of the app and first label of its address.')
@minLength(2)
@maxLength(60)
param name string

@description('Name of the plan.')
param planName string

@description('Azure region.')
param location string

@description('Tags of every resource.')
param tags object

@description('Resource id of the identity.')
param identityId string

@description('Client id of the identity.')
param identityClientId string

@description('Blob service of the host\'s storage account.')
param hostBlobServiceUri string

@description('Blob container of the host\'s storage account for the deployed package.')
param packageContainer string

@description('Table service for the state of the gateway.')
param tableServiceUri string

@description('The configuration of the gateway, as a JSON document.')
param configuration string

@description('The management key, or a reference to it in Key Vault. Empty: the management API is closed.')
@secure()
param managementKey string

@description('Further settings: the secrets that the configuration names, such as `secret_env` in `alerts`.')
@secure()
param secretSettings object

@description('Connection string of Application Insights. Empty: no telemetry.')
param telemetryConnectionString string

@description('Memory of an instance in MB; it also sets the CPU (2048: one core).')
@allowed([512, 2048, 4096])
param instanceMemoryMB int

@description('Largest request body with a length, in bytes. The host holds it in memory about five times, without asking for a key.')
@minValue(1048576)
@maxValue(1073741824)
param requestBodyLimitBytes int

@description('Calls that one instance serves at a time. Azure\'s default for Python is 1.')
@minValue(1)
@maxValue(1000)
param perInstanceConcurrency int

@description('Maximum number of instances.')
@minValue(40)
@maxValue(1000)
param maximumInstanceCount int

@description('Always-ready instances for HTTP. 0: the first call after a pause waits for a cold start.')
@minValue(0)
@maxValue(1000)
param alwaysReadyInstances int

@description('Spread instances over availability zones, if the region has them.')
param zoneRedundant bool

@description('The way instances are replaced by an update.')
@allowed(['RollingUpdate', 'Recreate'])
param updateStrategy string

@description('Subnet for outgoing calls. Empty: none.')
param subnetId string

@description('Public network access: `true` if the app can be reached from the internet.')
param publicAccess bool

@description('IPv4 ranges in CIDR notation that may call. Empty: everybody with a key.')
param allowedIpRanges string[]

@description('With `allowedIpRanges`: let Azure\'s availability tests in, too.')
param allowAvailabilityTests bool

// The variables that shared/config/ reads, and those that the host needs. Never `AzureWebJobsStorage`: shared keys are off.
var settings = {
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  APPLICATIONINSIGHTS_CONNECTION_STRING: telemetryConnectionString
  AZURE_CLIENT_ID: identityClientId
  AzureWebJobsDisableHomepage: 'true'
  AzureWebJobsStorage__blobServiceUri: hostBlobServiceUri
  AzureWebJobsStorage__clientId: identityClientId
  AzureWebJobsStorage__credential: 'managedidentity'
  FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: string(requestBodyLimitBytes)
  GATEWAY_CONFIG: configuration
  GATEWAY_MANAGEMENT_KEY: managementKey
  GATEWAY_STORAGE__clientId: identityClientId
  GATEWAY_STORAGE__tableServiceUri: tableServiceUri
  PYTHON_ENABLE_OPENTELEMETRY: empty(telemetryConnectionString) ? 'false' : 'true'
}

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
    zoneRedundant: zoneRedundant
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'gateway' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    keyVaultReferenceIdentity: identityId
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    functionAppConfig: {
      #disable-next-line BCP037 // a preview that the compiler's types do not have yet
      siteUpdateStrategy: {
        type: updateStrategy
      }
      runtime: {
        name: 'python'
        version: '3.13'
      }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${hostBlobServiceUri}/${packageContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        alwaysReady: alwaysReadyInstances == 0 ? [] : [{ name: 'http', instanceCount: alwaysReadyInstances }]
        triggers: {
          http: {
            perInstanceConcurrency: perInstanceConcurrency
          }
        }
      }
    }
    siteConfig: {
      minTlsVersion: '1.2'
      ipSecurityRestrictionsDefaultAction: empty(allowedIpRanges) ? 'Allow' : 'Deny'
      ipSecurityRestrictions: concat(
        map(allowedIpRanges, (cidr, index) => {
          action: 'Allow'
          ipAddress: cidr
          name: 'range-${index}'
          priority: 100 + index
        }),
        empty(allowedIpRanges) || !allowAvailabilityTests
          ? []
          : [
              {
                action: 'Allow'
                ipAddress: 'ApplicationInsightsAvailability'
                tag: 'ServiceTag'
                name: 'availability-tests'
                priority: 1000
              }
            ]
      )
    }
  }
}

// Declared as a whole: settings that are not listed here are removed.
resource appSettings 'Microsoft.Web/sites/config@2025-03-01' = {
  parent: app
  name: 'appsettings'
  properties: union(secretSettings, settings)
}

// Publishing with Entra ID only, not with a user name and a password.
resource ftpPublishing 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'ftp'
  properties: {
    allow: false
  }
}

resource scmPublishing 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'scm'
  properties: {
    allow: false
  }
}

@description('Resource id of the app.')
output id string = app.id

@description('Name of the app.')
output name string = app.name

@description('Address of the gateway.')
output url string = 'https://${app.properties.defaultHostName}'
